"""Files in the host's folders, saved prompts among them: python files.py HOST PACK, as in checks.py."""

import os
import tempfile
from pathlib import Path

from checks import torch
from running import expect_error, run_checks

# isort: split
# found once checks has put the host and the pack on the path
import pack.nodes.host_files as host_files


def check_an_embedding_with_more_than_the_prompt_is_not_saved_in_part() -> None:
    from pack.nodes.text_embedding import ViewPointSaveTextEmbedding

    conditioning = [[torch.zeros(1, 512, 4096), {"pooled_output": None, "noise_concat": torch.zeros(1)}]]
    expect_error(lambda: ViewPointSaveTextEmbedding.execute(conditioning, "x"), "noise_concat")


def check_an_embedding_of_another_encoder_is_neither_saved_nor_loaded() -> None:
    from pack.nodes.text_embedding import ViewPointSaveTextEmbedding, read_embedding, write_embedding

    with tempfile.TemporaryDirectory() as work:
        for shape, words in (
            ((1, 5, 768), "got an embedding (1, 5, 768); expected (batch, tokens, 4096)"),
            ((2, 5, 4096), "got a batch of 2 prompts (2, 5, 4096); expected one"),
            ((5, 4096), "got an embedding (5, 4096); expected (batch, tokens, 4096)"),
        ):
            expect_error(
                lambda shape=shape: ViewPointSaveTextEmbedding.execute([[torch.zeros(shape), {}]], "x"),
                f"conditioning: {words}",
            )
            file = Path(work) / "other.safetensors"
            write_embedding(torch.zeros(shape), file)
            expect_error(lambda file=file: read_embedding(file), f"other.safetensors: {words}")


def check_saved_prompts_are_listed_with_their_subfolders_and_one_saved_elsewhere_says_so() -> None:
    from pack.nodes.text_embedding import ViewPointSaveTextEmbedding, listed_embeddings

    paths = host_files.folder_paths
    before = paths.get_input_directory(), paths.get_output_directory()
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "input").mkdir()
        paths.set_input_directory(str(Path(work) / "input"))
        paths.set_output_directory(str(Path(work) / "output"))
        try:
            said = {}
            for prefix in ("text_embeddings/a", "text_embeddings/2026/may/b", "text_embeddings2/c", "d"):
                saved = ViewPointSaveTextEmbedding.execute([[torch.zeros(1, 2, 4096), {}]], prefix)
                name, *more = saved.ui["text"]
                assert name == f"{prefix}_00001_.safetensors"
                said[prefix] = " ".join(more)
            listed = listed_embeddings()
            chosen = [host_files.chosen_file(name, {".safetensors"}).name for name in listed]
        finally:
            paths.set_input_directory(before[0])
            paths.set_output_directory(before[1])
    names = ("text_embeddings/2026/may/b", "text_embeddings/a")
    assert listed == [f"{name}_00001_.safetensors [output]" for name in names]
    assert chosen == ["b_00001_.safetensors", "a_00001_.safetensors"]
    assert [prefix for prefix, more in said.items() if "copy the file" in more] == ["text_embeddings2/c", "d"]


def check_a_saved_prompt_is_on_the_disk_before_it_has_its_name() -> None:
    from pack.nodes.text_embedding import ViewPointSaveTextEmbedding

    paths, flush, flushed = host_files.folder_paths, os.fsync, []
    before = paths.get_output_directory()
    with tempfile.TemporaryDirectory() as work:

        def note(number: int) -> None:
            flushed.append(list(Path(work).glob("*.safetensors")))
            flush(number)

        os.fsync = note
        paths.set_output_directory(work)
        try:
            ViewPointSaveTextEmbedding.execute([[torch.zeros(1, 2, 4096), {}]], "a")
        finally:
            os.fsync = flush
            paths.set_output_directory(before)
        assert (flushed, [path.name for path in Path(work).iterdir()]) == ([[]], ["a_00001_.safetensors"])


def check_a_number_that_is_taken_while_a_file_is_made_stays_with_the_other_file() -> None:
    paths = host_files.folder_paths
    before = paths.get_output_directory()
    with tempfile.TemporaryDirectory() as work:
        paths.set_output_directory(work)
        try:
            with host_files.new_file("a", ".mp4") as file:
                file.partial.write_text("this ComfyUI's")
                other = file.path
                other.write_text("another ComfyUI's")
        finally:
            paths.set_output_directory(before)
        assert (file.path.name, file.path.read_text()) == ("a_00002_.mp4", "this ComfyUI's")
        assert (other.name, other.read_text()) == ("a_00001_.mp4", "another ComfyUI's")
        assert len(list(Path(work).iterdir())) == 2


def check_files_may_be_links_that_lead_out_of_the_folder_but_names_may_not() -> None:
    with tempfile.TemporaryDirectory() as work:
        inside, outside = Path(work) / "input", Path(work) / "elsewhere"
        inside.mkdir()
        outside.mkdir()
        (outside / "real.mp4").write_bytes(b"video")
        (inside / "clip.mp4").symlink_to(outside / "real.mp4")
        (inside / "far.mp4").symlink_to("x" * 300)  # what stat fails at, as at a mount that is gone
        before = host_files.folder_paths.get_input_directory()
        host_files.folder_paths.set_input_directory(str(inside))
        try:
            assert host_files.listed_files("input", {".mp4"}) == ["clip.mp4"]
            assert host_files.chosen_file("clip.mp4", {".mp4"}).read_bytes() == b"video"
            expect_error(lambda: host_files.chosen_file("far.mp4", {".mp4"}), "'far.mp4' is not in ComfyUI's input")
            for name in ("../elsewhere/real.mp4", str(outside / "real.mp4"), "a/../../elsewhere/real.mp4"):
                expect_error(lambda name=name: host_files.chosen_file(name, {".mp4"}), "input, output or temp folder")
        finally:
            host_files.folder_paths.set_input_directory(before)


def check_file_names_say_their_folder_as_the_hosts_loaders_read_them() -> None:
    paths = host_files.folder_paths
    kinds = ("input", "output", "temp")
    before = [getattr(paths, f"get_{kind}_directory")() for kind in kinds]
    with tempfile.TemporaryDirectory() as work:
        try:
            for kind in kinds:
                (Path(work) / kind).mkdir()
                (Path(work) / kind / "a.mp4").write_text(kind)
                getattr(paths, f"set_{kind}_directory")(str(Path(work) / kind))
            for name, kind in (("a.mp4", "input"), *((f"a.mp4 [{kind}]", kind) for kind in kinds)):
                assert host_files.chosen_file(name, {".mp4"}).read_text() == kind
                assert os.path.samefile(paths.get_annotated_filepath(name), host_files.chosen_file(name, {".mp4"}))
            for name in ("../input/a.mp4 [temp]", f"{work}/input/a.mp4 [output]"):
                expect_error(lambda name=name: host_files.chosen_file(name, {".mp4"}), "input, output or temp folder")
            expect_error(lambda: host_files.chosen_file("b.mp4 [temp]", {".mp4"}), "is not in ComfyUI's temp folder")
        finally:
            for kind, path in zip(kinds, before, strict=True):
                getattr(paths, f"set_{kind}_directory")(path)


if __name__ == "__main__":
    run_checks(dict(globals()))
