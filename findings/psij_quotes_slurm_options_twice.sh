#!/usr/bin/env bash
# psij-python: quotation marks become part of the value of a SLURM option that is not a single plain word.
#
# The template of the submit script puts a value into double quotes, and the value that it gets has been quoted
# for a shell already. A value that needs quoting then has single quotes inside of the double ones, and they
# stay. Read as a shell reads it, the constraint below is 'a100|h100' with the quotation marks, which is not what was asked for.
# Also, True as a value is written out, so an option that takes no value cannot be asked for.
# The working directory is written in the same way.
#
# What synpol does: it takes the inner marks, and the values "True", out of the script (blockwise/submission.py).
#
# Output seen with psij-python 0.9.11 on Python 3.11 and 3.12, Linux; no SLURM is needed:
#> #SBATCH --chdir="'/data/my volume'"
#> #SBATCH --constraint="'a100|h100'"
#> #SBATCH --qos="high"
#> #SBATCH --exclusive="True"
#> a shell reads the constraint as --constraint='a100|h100'
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet "psij-python==${VERSION:-0.9.11}"
venv/bin/pip list 2>/dev/null | grep -E '^(psij-python|pystache) '
cat >demo.py <<'END'
import io
import shlex
from pathlib import Path

import psij

options = {"slurm.constraint": "a100|h100", "slurm.qos": "high", "slurm.exclusive": True}
job = psij.Job(
    psij.JobSpec(
        executable="/bin/true",
        directory=Path("/data/my volume"),
        attributes=psij.JobAttributes(custom_attributes=options),
    )
)
slurm = psij.JobExecutor.get_instance("slurm")
script = io.StringIO()
slurm.generate_submit_script(job, slurm._create_script_context(job), script)
for line in script.getvalue().splitlines():
    if line.startswith(("#SBATCH --chdir", *(f"#SBATCH --{key[6:]}" for key in options))):
        print(line)
    if "--constraint" in line:
        constraint = shlex.split(line.removeprefix("#SBATCH"))[0]
print("a shell reads the constraint as", constraint)
END
HOME=$folder venv/bin/python demo.py | tee seen
sed -n 's/^#> //p' "$script" | diff - seen
echo "still so"
