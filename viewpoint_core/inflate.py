"""Inflate a stock Wan2.1 T2V checkpoint to 33 channels: python -m viewpoint_core.inflate SRC DST."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from .checkpoint import inflate_checkpoint, read_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, 2 with a message on bad input, 130 where it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m viewpoint_core.inflate", description=__doc__)
    parser.add_argument(
        "source", type=Path, help="stock checkpoint: a .safetensors file, an index, or a folder of shards"
    )
    parser.add_argument("target", type=Path, help="file to write, .safetensors")
    parser.add_argument("--schedule", default="alternating", help="alternating, pano, perspective, or blocks: 1,3,8-11")
    parser.add_argument("--force", action="store_true", help="replace the target if it exists")
    options = parser.parse_args(arguments)
    try:
        total = sum(tensor.size for tensor in read_checkpoint(options.source)[0].values())
        with tqdm(total=total, unit="B", unit_scale=True, desc="inflate") as bar:
            for written in inflate_checkpoint(
                options.source, options.target, schedule=options.schedule, force=options.force
            ):
                bar.update(min(written, total) - bar.n)
    except (ValueError, OSError) as error:
        print(f"inflate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("inflate: stopped; nothing is written", file=sys.stderr)
        return 130
    print(options.target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
