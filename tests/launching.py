"""Runs the scripts of launch/ on a machine that has nothing of the cloud.

PATH holds the few tools that the scripts need and fakes that write down how
they were called: nothing of the real machine can be reached by mistake.
"""

import pathlib
import shlex
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCH = ROOT / 'launch'

_TOOLS = (
  'bash', 'cat', 'cp', 'date', 'dirname', 'grep', 'gzip', 'head', 'hostname',
  'ln', 'mkdir', 'mktemp', 'mv', 'rm', 'sed', 'setsid', 'sleep', 'tail', 'tar',
  'touch', 'tr', 'wc',
)  # fmt: skip

COMMIT = '0123456789ab'

# A clean checkout, or one with changes where the file `changes` is.
_GIT = f"""
case "$*" in
  *status*) if [ -e FOLDER/changes ]; then echo ' M main.py'; fi ;;
  *rev-parse*nope*) exit 1 ;;
  *rev-parse*) echo {COMMIT} ;;
  *archive*) echo archive ;;
esac
"""

# Answers are lines of a file; each question takes one, the last one stays.
_RECORD = """#!{bash}
printf '%s\\037' {name} "$@" >>"{folder}/calls"
printf '\\036' >>"{folder}/calls"
answer() {{
  head -n 1 "$1"
  if [ "$(wc -l <"$1")" -gt 1 ]; then
    tail -n +2 "$1" >"$1.rest" && mv "$1.rest" "$1"
  fi
}}
"""


class Machine:
  """A place to start scripts from.

  Args:
    folder: where tools, records and temporary files lie.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    (folder / 'bin').mkdir()
    for tool in _TOOLS:
      (folder / 'bin' / tool).symlink_to(shutil.which(tool))
    self.fake('git', _GIT)

  def fake(self, name: str, body: str = '') -> None:
    """Puts a program into PATH that notes its arguments, then runs bash."""
    program = self.folder / 'bin' / name
    head = _RECORD.format(
      bash=shutil.which('bash'), name=name, folder=self.folder
    )
    program.write_text(head + body.replace('FOLDER', str(self.folder)))
    program.chmod(0o755)

  def answers(self, name: str, *lines: str) -> None:
    """Sets what `answer FOLDER/name` prints in a fake, one line a time."""
    (self.folder / name).write_text(''.join(f'{line}\n' for line in lines))

  def run(
    self, script: str, *arguments: str, code: int = 0, **settings: object
  ) -> subprocess.CompletedProcess:
    """Runs a script of launch/ with settings, and checks its exit status."""
    done = subprocess.run(
      ['bash', str(LAUNCH / script), *arguments],
      cwd=self.folder,
      env=self.environment(**settings),
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done

  def environment(self, **settings: object) -> dict[str, str]:
    """The environment of the scripts: nothing but what is given here."""
    return {
      'PATH': str(self.folder / 'bin'),
      'HOME': str(self.folder),
      'TMPDIR': str(self.folder),
    } | {name: str(value) for name, value in settings.items()}

  @property
  def calls(self) -> list[list[str]]:
    """How the fakes were called, in order; git only asked is left out."""
    file = self.folder / 'calls'
    text = file.read_text() if file.exists() else ''
    calls = [call.split('\x1f')[:-1] for call in text.split('\x1e') if call]
    return [c for c in calls if c[0] != 'git' or 'archive' in c]


def printed(output: str) -> list[list[str]]:
  """The commands that a script printed, as a shell reads them."""
  return [
    shlex.split(line) for line in output.splitlines() if line[:1] not in '# '
  ]
