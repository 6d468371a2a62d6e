#!/usr/bin/env bash
# pandas 3.1.1 (Python 3.11, openpyxl 3.1.5, odfpy 1.4.1): `DataFrame.to_excel(Path("labels.ods"))` writes an .xlsx workbook
# under that name; the same call with a string writes an OpenDocument sheet.
#
# One would guess that a path and its text are the same file, as in `to_csv`, `to_parquet` and `read_excel`. The engine is
# chosen by the suffix for strings alone; anything else falls back to the default engine. `read_excel` looks into the file
# and reads both, so that a round trip hides it; programs that trust the suffix do not open it. Engine "odf" said by name is
# right for both.
#
# Output seen:
#   string: application/vnd.oasis.opendocument.spreadsheet
#   path: no mimetype, an .xlsx workbook: True
#   path, engine="odf": application/vnd.oasis.opendocument.spreadsheet
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check pandas==3.1.1 openpyxl==3.1.5 odfpy==1.4.1
cat >"$work/check.py" <<'PY'
import zipfile
from pathlib import Path

import pandas as pd

table = pd.DataFrame({"label": ["a", "b"]})
table.to_excel("string.ods", index=False)
table.to_excel(Path("path.ods"), index=False)
table.to_excel(Path("engine.ods"), index=False, engine="odf")


def mimetype(name):
    with zipfile.ZipFile(name) as file:
        return file.read("mimetype").decode() if "mimetype" in file.namelist() else None


ODS = "application/vnd.oasis.opendocument.spreadsheet"
workbook = "xl/workbook.xml" in zipfile.ZipFile("path.ods").namelist()
print("string:", mimetype("string.ods"))
print(f"path: {mimetype('path.ods') or 'no mimetype'}, an .xlsx workbook: {workbook}")
print('path, engine="odf":', mimetype("engine.ods"))
assert mimetype("string.ods") == mimetype("engine.ods") == ODS
assert mimetype("path.ods") is None
assert workbook
PY
cd "$work"
"$work/venv/bin/python" check.py
