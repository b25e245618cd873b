"""launch/tpu_vm.sh and its worker together, on a cloud of one local folder."""

import io
import sys
import tarfile

from launching import COMMIT, LAUNCH, Machine

# One worker, which is a folder of this machine.
LOCAL_GCLOUD = """
case "$*" in
  *'value(state.state)'*) echo ACTIVE ;;
  *' scp '*) cp "$5" "FOLDER/host/${6#llama:}" ;;
  *' ssh '*)
    cd FOLDER/host
    for word in "$@"; do
      case $word in
        --command=*) HOME=$PWD exec bash -c "${word#--command=}" ;;
      esac
    done
    ;;
esac
"""
# Stands for training: fails at first.
FAILS_ONCE = """
import os, pathlib, sys
again = pathlib.Path('again')
seen = [os.environ['MESHWORK_COMMIT'], *sys.argv[1:]]
pathlib.Path('seen').write_text('\\n'.join(seen))
if again.exists():
  sys.exit(0)
again.touch()
sys.exit(1)
"""


def test_a_run_from_the_copy_of_the_code_to_its_end(tmp_path):
  machine = Machine(tmp_path)
  files = {
    'main.py': FAILS_ONCE,
    'launch/tpu_worker.sh': (LAUNCH / 'tpu_worker.sh').read_text(),
    'scripts/env.sh': 'mkdir -p .venv/bin && touch .venv/bin/activate',
  }
  with tarfile.open(tmp_path / 'code.tar.gz', 'w:gz') as archive:
    for name, text in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(text.encode())
      archive.addfile(info, io.BytesIO(text.encode()))
  (tmp_path / 'host').mkdir()
  (tmp_path / 'bin/python').symlink_to(sys.executable)
  (tmp_path / 'bin/python3.11').symlink_to(sys.executable)
  machine.fake('gcloud', LOCAL_GCLOUD)
  machine.fake(
    'git', f'case "$*" in *rev-parse*) echo {COMMIT} ;; *archive*) '
    'cp FOLDER/code.tar.gz "FOLDER/meshwork-' f'{COMMIT}.tar.gz" ;; esac'
  )  # fmt: skip
  flags = ["--workdir=gs://bucket/it's my run", '--config.x=$HOME "a" \\n']
  machine.run(
    'tpu_vm.sh', 'all', '--yes', '--', *flags,
    TPU_NAME='llama', PROJECT='mine', ZONE='us-east5-b', ACCELERATOR='v6e-8',
    POLL_SECONDS=0,
  )  # fmt: skip
  seen = (tmp_path / 'host/meshwork/seen').read_text()
  assert seen.splitlines() == [COMMIT, *flags]
  # Two attempts, on the same machines.
  verbs = [call[4] for call in machine.calls if call[0] == 'gcloud']
  assert [verb for verb in verbs if verb not in ('describe', 'ssh')] == [
    'create', 'scp', 'scp', 'delete',
  ]  # fmt: skip
