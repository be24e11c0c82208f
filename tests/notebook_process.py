"""What `nbdev_test` does with one notebook: the whole work of a process that is forked for it."""
import os
import sys
import traceback
from pathlib import Path


def run_notebook(notebook: str, skip_flags: list[str], root: str, cwd: str, stderr: str) -> None:
    """Run it in the folder `cwd`, what it prints discarded, what it complains of written to `stderr`; exits with 0 or 1."""
    for target, name in ((1, os.devnull), (2, stderr)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, target)
        os.close(file)
    os.chdir(cwd)
    os.environ.update({"PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb", "NO_COLOR": "1"})
    ours = [name for name in sys.modules if name.partition(".")[0] == "gpt_trader"]
    if ours:
        print(f"the process was not fresh: it had {', '.join(ours)}", file=sys.stderr)
        sys.exit(1)
    try:
        from nbdev.test import test_nb

        ok, _ = test_nb(Path(notebook), skip_flags=skip_flags, basepath=root)
    except BaseException:
        traceback.print_exc()
        ok = False
    sys.stderr.flush()
    sys.exit(0 if ok else 1)
