#!/usr/bin/env bash
# peft 0.21.2, transformers 5.24.0, torch 2.13.0 (Python 3.11): with use_dora=True the gradients of the LoRA weights are not
# the derivatives of the loss. The norm of each adapted weight is detached in the forward pass, so that its part is left out.
#
# One would guess that loss.backward() gives the derivative of the number that the forward pass computes, as it does for
# LoRA without DoRA, and check code against finite differences, or build second derivatives and influence on it.
#
# Output seen (derivative along a random direction, backward against central differences; DoRA is off by 52 %):
#   LoRA: off by 0.0%
#   DoRA: off by more than 1%: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 peft==0.21.2 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

words = torch.randint(30, (4, 8), generator=torch.Generator().manual_seed(0))


def off(dora: bool) -> float:
    """How far backward is off central differences along a random direction, relatively."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16,
        )
    )
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], use_dora=dora, init_lora_weights=False)
    model = peft.get_peft_model(base, settings).double().eval()
    parts = [value for name, value in model.named_parameters() if "lora_A" in name or "lora_B" in name]
    with torch.no_grad():
        for part in parts:
            part.normal_()
    direction = [torch.randn_like(part) for part in parts]

    def loss() -> torch.Tensor:
        return model(input_ids=words, labels=words).loss

    claimed = sum((g * d).sum() for g, d in zip(torch.autograd.grad(loss(), parts), direction))

    def at(step: float) -> torch.Tensor:
        with torch.no_grad():
            for part, d in zip(parts, direction):
                part.add_(step * d)
            found = loss()
            for part, d in zip(parts, direction):
                part.sub_(step * d)
        return found

    true = (at(1e-3) - at(-1e-3)) / 2e-3
    return float((claimed - true).abs() / true.abs())


plain, dora = off(False), off(True)
print(f"LoRA: off by {plain:.1%}")
print(f"DoRA: off by more than 1%: {dora > 0.01}")
assert plain < 1e-3
assert dora > 0.01
PY
"$work/venv/bin/python" "$work/check.py" 2>/dev/null
