"""What DeepSpeed is told, as accelerate hands it over; DeepSpeed itself is not needed."""

import pytest
from accelerate.utils import DeepSpeedPlugin

from viewpoint_core.training.config import TrainingConfig
from viewpoint_core.training.parallel import configure_deepspeed
from viewpoint_core.training.run import check_deepspeed


def handed_over(precision: str) -> dict:
    """The settings that the engine gets: accelerate's on its start, the trainer's, accelerate's when it prepares."""
    plugin = DeepSpeedPlugin(zero_stage=3)
    plugin.set_mixed_precision("bf16" if precision == "bf16" else "no")
    bf16 = precision == "bf16"
    assert plugin.deepspeed_config["bf16"]["enabled"] == bf16, "what accelerate does by itself"
    configure_deepspeed(plugin.deepspeed_config, batch=2, accumulation=4, clip=0.5, bf16=bf16)
    kwargs = {"gradient_clipping": 1.0, "zero_optimization.stage3_gather_16bit_weights_on_model_save": False}
    plugin.deepspeed_config_process(must_match=False, **kwargs, train_batch_size=16)
    return plugin.deepspeed_config


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_deepspeed_keeps_float32_weights_and_autocasts_by_its_own_settings(precision: str) -> None:
    settings = handed_over(precision)
    assert settings["bf16"] == settings["fp16"] == {"enabled": False}
    assert settings["torch_autocast"]["enabled"] == (precision == "bf16")
    assert settings["torch_autocast"]["dtype"] == "bfloat16"
    assert settings["torch_autocast"]["lower_precision_safe_modules"] == [], "gradients are exchanged in float32"


def test_deepspeed_gets_the_runs_batches_and_clipping_and_gathers_weights() -> None:
    settings = handed_over("bf16")
    names = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "train_batch_size")
    assert [settings[name] for name in names] == [2, 4, 0.5, 16]
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


def test_frozen_weights_in_bf16_are_refused_under_deepspeed() -> None:
    with pytest.raises(ValueError, match="base_dtype is bf16; under DeepSpeed it is fp32"):
        check_deepspeed(TrainingConfig(mode="lora", base_dtype="bf16"))
