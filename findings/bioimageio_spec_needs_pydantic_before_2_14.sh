#!/usr/bin/env bash
# bioimageio.spec: with pydantic 2.14 a description that names a file cannot even be made, although 2.14 is allowed.
#
# bioimageio.spec 0.5.12.0, which bioimageio.core 0.11.0 asks for, accepts pydantic 2.10.3 up to 3, so installers take the
# newest. Its function that writes file names hands an object of pydantic's to the place of an index. pydantic 2.13 lets
# that pass; pydantic 2.14 refuses it. The error that one sees is a "Value error" of the whole description and names no
# field, so it looks as if the description were wrong. The same description is packaged without a word by the older one.
#
# What synpol does: constraints.txt has pydantic 2.13.5, and a test has bioimageio.core run the packages that it writes.
#
# Output seen with bioimageio.spec 0.5.12.0 on Python 3.12, Linux:
#> pydantic 2.13.5: packaged README.md, note.txt, rdf.yaml
#> pydantic 2.14.3: ValidationError, 'index_key' is expected to be an integer or a string
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >demo.py <<'END'
import warnings
from pathlib import Path

import pydantic
from bioimageio.spec import save_bioimageio_package_as_folder
from bioimageio.spec.generic import v0_3

warnings.simplefilter("ignore")
Path("note.txt").write_text("hello")
Path("README.md").write_text("A note.")
try:
    note = v0_3.GenericDescr(
        name="A note",
        description="One file",
        authors=[v0_3.Author(name="A Person")],
        license="MIT",
        cite=[v0_3.CiteEntry(text="A paper", doi="10.1234/abcd")],
        documentation="README.md",
        attachments=[v0_3.FileDescr(source="note.txt")],
        type="note",
        version="0.1.0",
    )
    package = save_bioimageio_package_as_folder(note)
    said = "packaged " + ", ".join(sorted(path.name for path in Path(package).iterdir()))
except pydantic.ValidationError as error:
    words = str(error)
    begin = words.index("'index_key'")
    said = f"ValidationError, {words[begin : words.index(', got', begin)]}"
print(f"pydantic {pydantic.VERSION}: {said}")
END
for pydantic in 2.13.5 2.14.3; do
    "${PYTHON:-python3}" -m venv "venv$pydantic"
    "venv$pydantic/bin/pip" install --quiet "bioimageio.spec==${VERSION:-0.5.12.0}" "pydantic==$pydantic"
    "venv$pydantic/bin/python" demo.py 2>errors | tee -a seen || { cat errors; exit 1; }
done
sed -n 's/^#> //p' "$script" | diff - seen
echo "still so"
