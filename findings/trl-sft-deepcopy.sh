#!/usr/bin/env bash
# trl 1.16.0, transformers 5.24.0, torch 2.13.0 (Python 3.11): after SFTTrainer(model, ...) a copy.deepcopy of the model
# does not compute with its own weights, but with those of the original model.
#
# One would guess that a deep copy is independent, as it is of every model of transformers: evaluation of a kept copy,
# weight averaging and replays of training rely on it. SFTTrainer puts a function in the place of model.forward that
# remembers the old forward, bound to the original; the copy's function remembers the same one.
#
# Output seen:
#   before SFTTrainer: the outputs of a copy whose weights are zero differ from the original's: True
#   after SFTTrainer: the outputs of a copy whose weights are zero differ from the original's: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 datasets==5.2.0 trl==1.16.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import copy
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "one": 3, "two": 4, "three": 5}
raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=6, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )
).eval()
ids = torch.tensor([[3, 4, 5]])


def differs() -> bool:
    """Whether a copy with weights of zero says something else than the model."""
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        for part in other.parameters():
            part.zero_()
        return not torch.equal(other(ids).logits, model.eval()(ids).logits)


before = differs()
with tempfile.TemporaryDirectory() as folder:
    args = SFTConfig(folder, bf16=False, use_cpu=True, report_to=[])
    SFTTrainer(model, args, train_dataset=Dataset.from_list([{"text": "one two three"}] * 4), processing_class=tokenizer)
after = differs()
for when, found in (("before", before), ("after", after)):
    print(f"{when} SFTTrainer: the outputs of a copy whose weights are zero differ from the original's: {found}")
assert before
assert not after
PY
"$work/venv/bin/python" "$work/check.py" 2>/dev/null
