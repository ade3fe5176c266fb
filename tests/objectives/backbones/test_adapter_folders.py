"""A folder with an adapter of PEFT's is refused by a command that merges it into its model."""

import re
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from promptgraft.objectives.backbones import FAMILIES, guess_family
from promptgraft.objectives.backbones.files.checkpoint_files import check_checkpoint
from promptgraft.spaces import InvalidInputError
from tests.support.models import TinyModels


def test_the_command_makes_a_model_of_an_adapter(tmp_path: Path, tiny_models: TinyModels) -> None:
    base, folder = tiny_models["causal_lm"], tmp_path / "mine"
    model = AutoModelForCausalLM.from_pretrained(base)
    linear = next(name for name, module in model.named_modules() if name.endswith("q_proj") or name.endswith("c_attn"))
    config = LoraConfig(r=2, target_modules=[linear], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)

    with pytest.raises(InvalidInputError, match="an adapter of another model's weights; merge both") as refusal:
        guess_family(str(folder))
    command = re.search('python -c "(.*)"', str(refusal.value))
    assert command is not None
    exec(command[1], {})

    merged = Path(f"{folder}-merged")
    check_checkpoint(merged, FAMILIES["causal_lm"], custom_code=False)
    assert guess_family(str(merged)) == "causal_lm"
    before, after = (load_file(Path(own) / "model.safetensors")[f"{linear}.weight"] for own in (base, merged))
    assert not before.equal(after)
