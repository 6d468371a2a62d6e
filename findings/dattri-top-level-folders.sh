#!/usr/bin/env bash
# dattri 0.3.0 (PyPI wheel, Python 3.11): the wheel installs four folders of its repository beside the package itself,
# `docs`, `examples`, `experiments` and `test`, at the top level of site-packages.
#
# One would guess that `import experiments` fails unless a project has such a package. It succeeds everywhere once
# dattri is installed, and a project's own folder `experiments` without an `__init__.py` is merged with dattri's: its
# `__path__` has two entries, and `import experiments.benchmark_result` runs dattri's script in place of an ImportError.
# A project that compares itself with dattri needs `__init__.py` in folders of these names.
#
# Output seen:
#   top level: dattri docs examples experiments test
#   in an empty folder: importing experiments works
#   own folder without __init__.py: 2 entries in __path__, benchmark_result found
#   own folder with __init__.py: 1 entry in __path__, benchmark_result not found
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps dattri==0.3.0
cat >"$work/check.py" <<'PY'
import importlib.util
import pathlib
import subprocess
import sys
import sysconfig
import tempfile

site = pathlib.Path(sysconfig.get_paths()["purelib"])
ours = {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
folders = sorted(p.name for p in site.iterdir() if p.is_dir() and "." not in p.name and p.name not in ours)
folders = [name for name in folders if name != "__pycache__"]
print("top level:", *folders)
assert folders == ["dattri", "docs", "examples", "experiments", "test"], folders

ASK = (
    "import importlib.util, experiments;"
    "print(len(experiments.__path__), importlib.util.find_spec('experiments.benchmark_result') is not None)"
)


def asked(folder):
    return subprocess.run([sys.executable, "-c", ASK], cwd=folder, capture_output=True, text=True, check=True).stdout.split()


with tempfile.TemporaryDirectory() as folder:
    assert asked(folder) == ["1", "True"]
    print("in an empty folder: importing experiments works")
    own = pathlib.Path(folder) / "experiments"
    own.mkdir()
    (own / "mine.py").write_text("")
    assert asked(folder) == ["2", "True"]
    print("own folder without __init__.py: 2 entries in __path__, benchmark_result found")
    (own / "__init__.py").write_text("")
    assert asked(folder) == ["1", "False"]
    print("own folder with __init__.py: 1 entry in __path__, benchmark_result not found")
PY
"$work/venv/bin/python" "$work/check.py"
