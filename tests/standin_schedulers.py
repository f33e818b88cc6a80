"""Programs that stand in for LSF's and PBS's command lines, which cannot be installed here.

They keep to the contract of the real ones (what is printed, which options are known, which
variables a job sees) and run jobs on this machine. What is tested with them is that submissions
are well formed and that states are understood, not that a cluster works.
"""

from __future__ import annotations

import sys
from pathlib import Path

_COMMON = """#!{python}
import json, os, re, shlex, signal, subprocess, sys
from pathlib import Path
DIR = Path({folder!r})

def launch(script, variable, ending):
    number = 1 + max([int(p.stem) for p in DIR.glob("*.script")], default=100)
    path = DIR / f"{{number}}.script"
    path.write_text(script)
    job = str(number) + ending
    env = dict(os.environ, **{{variable: job}})
    process = subprocess.Popen(
        ["/bin/bash", str(path)], env=env, start_new_session=True, stdin=subprocess.DEVNULL
    )
    (DIR / f"{{number}}.pid").write_text(str(process.pid))
    return job

def running(number):
    pid = (DIR / f"{{number}}.pid").read_text()
    try:
        return Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

def numbers():
    return sorted(int(p.stem) for p in DIR.glob("*.pid"))

def end(number):
    if not running(number):
        return False
    os.killpg(int((DIR / f"{{number}}.pid").read_text()), signal.SIGKILL)
    (DIR / f"{{number}}.killed").touch()
    return True

def options(script, mark, known):
    for line in script.splitlines():
        if line.startswith(mark):
            name, *value = shlex.split(line[len(mark):])
            if any("'" in v or '"' in v for v in value):
                sys.exit(f"{{name}}: Bad syntax in {{value}}. Job not submitted.")
            if name.lstrip("-") not in known:
                sys.exit(f"{{name}}: Illegal option. Job not submitted.")
"""

_PROGRAMS = {
    "bsub": """
script = sys.stdin.read()
if len(sys.argv) > 1 or not script:
    sys.exit("bsub: a script file is not parsed for options here. Job not submitted.")
options(script, "#BSUB", "J cwd env n R M gpu P q W e o".split())
if 'q "nowhere"' in script:
    sys.exit("nowhere: No such queue. Job not submitted.")
print(f"Job <{launch(script, 'LSB_JOBID', '')}> is submitted to default queue <normal>.")
""",
    "bjobs": """
rows = []
for number in numbers():
    killed = (DIR / f"{number}.killed").exists()
    state = "RUN" if running(number) else "EXIT" if killed else "DONE"
    why = "TERM_OWNER: job killed by owner" if killed else ""
    rows.append({"JOBID": str(number), "STAT": state, "EXIT_REASON": why, "KILL_REASON": "",
                 "SUSPEND_REASON": ""})
print(json.dumps({"COMMAND": "bjobs", "JOBS": len(rows), "RECORDS": rows}))
""",
    "bkill": """
if not end(int(sys.argv[1])):
    sys.exit(f"Job <{sys.argv[1]}>: Job has already finished")
print(f"Job <{sys.argv[1]}> is being terminated")
""",
    "qsub": """
script = Path(sys.argv[1]).read_text()
options(script, "#PBS", "N V l A q e o".split())
if "#PBS -q nowhere" in script:
    sys.exit("qsub: Unknown queue")
print(launch(script, "PBS_JOBID", ".server"))
""",
    "qstat": """
jobs = {}
for number in numbers():
    killed = (DIR / f"{number}.killed").exists()
    jobs[f"{number}.server"] = {"job_state": "R" if running(number) else "F",
                                "Exit_status": 265 if killed else 0}
print(json.dumps({"timestamp": 0, "Jobs": jobs}))
""",
    "qdel": """
if not end(int(sys.argv[1].split(".")[0])):
    sys.exit(f"qdel: Job has finished {sys.argv[1]}")
""",
}


def install(folder: Path) -> Path:
    """Write the programs; returns the folder to be put on the PATH."""
    programs, jobs = folder / "bin", folder / "jobs"
    programs.mkdir(parents=True)
    jobs.mkdir()
    for name, body in _PROGRAMS.items():
        path = programs / name
        path.write_text(_COMMON.format(python=sys.executable, folder=str(jobs)) + body)
        path.chmod(0o755)
    return programs
