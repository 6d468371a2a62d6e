#!/usr/bin/env bash
# dattri-llm 0.1.0 (PyPI wheel, Python 3.11, dattri 0.3.0, torch 2.13.0): the key "device" of
# HookManagerConfig(projection_kwargs=...) with the style "logra" makes every forward pass of the model fail.
#
# One would guess that it works: the docstring of HookManagerConfig describes the key ("where the projection runs") and
# has it in its example. The hook of linear layers hands it on beside a `device=` of its own. Without the key the same
# capture works; "dense" takes it.
#
# Output seen:
#   logra with device: TypeError: DattriProjector.resolve() got multiple values for keyword argument 'device'
#   logra without device: captured
#   dense with device: captured
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 dattri-llm==0.1.0 dattri==0.3.0
cat >"$work/check.py" <<'PY'
import torch
from dattri_llm import HookManager, HookManagerConfig, REGISTER_ALL


def captured(**more):
    """What comes of the gradients of a linear layer, projected as they are captured."""
    model = torch.nn.Sequential(torch.nn.Linear(6, 4))
    wanted = {"proj_dim": 2, "proj_max_batch_size": 8, **more}
    config = HookManagerConfig(linear_io=REGISTER_ALL, projection_kwargs={"__default__": wanted})
    manager = HookManager(model, config=config)
    try:
        with manager.collect():
            model(torch.ones(3, 5, 6)).sum().backward()
        return "captured" if manager.get_gradient() is not None else "nothing"
    except TypeError as error:
        return f"TypeError: {str(error).rpartition('projection.')[2]}"
    finally:
        manager.remove()


found = {
    "logra with device": captured(style="logra", device="cpu"),
    "logra without device": captured(style="logra"),
    "dense with device": captured(style="dense", device="cpu"),
}
for name, what in found.items():
    print(f"{name}: {what}")
assert "multiple values for keyword argument 'device'" in found["logra with device"]
assert found["logra without device"] == found["dense with device"] == "captured"
PY
"$work/venv/bin/python" "$work/check.py" 2>/dev/null
