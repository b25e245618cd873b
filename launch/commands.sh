# shellcheck shell=bash
# Sourced by the other scripts: commands that are printed, and run only with
# --yes; settings that must be given; the command line.

# Set by --yes on the command line.
ACTING=no
# Exit status of main.py that another attempt would only repeat: the
# configuration does not fit, bad data or numbers, a suspect device (docs/training.md).
# shellcheck disable=SC2034  # those that source this use it
FINAL=' 64 65 76 '

die() {
  echo "${0##*/}: $*" >&2
  exit 64
}

# Ends the script unless each of the named settings has a value.
required() {
  local name
  for name in "$@"; do
    if [ -z "${!name:-}" ]; then
      die "$name is not set. Set it in the environment; the settings, with" \
        "their meanings, stand at the top of $0."
    fi
  done
}

# Ends the script unless the named setting is a whole number.
whole_number() {
  case ${!1} in
    '' | *[!0-9]*) die "$1 is '${!1}'; it must be a whole number." ;;
  esac
}

# Words as a shell reads them, on one line.
quoted() {
  local word name line=''
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=@,%+-]+$ ]]; then
      # --name='odd value' is easier to read than '--name=odd value'.
      name=''
      if [[ $word =~ ^--[a-z_.-]+= ]]; then name=${BASH_REMATCH[0]}; fi
      word="$name'$(printf '%s' "${word#"$name"}" | sed "s/'/'\\\\''/g")'"
    fi
    line="$line${line:+ }$word"
  done
  printf '%s' "$line"
}

# A line for a person: a comment among printed commands.
note() {
  if [ "$ACTING" = yes ]; then echo "# $*" >&2; else echo "# $*"; fi
}

# Runs a command, or prints it.
act() {
  if [ "$ACTING" = yes ]; then
    echo "+ $(quoted "$@")" >&2
    "$@"
  else
    quoted "$@"
    echo
  fi
}

# Runs a command that only asks; its complaints are shown only where it fails,
# and are left in the file that COMPLAINT names.
ask() {
  local code=0
  if [ "$ACTING" = no ]; then
    act "$@"
    return
  fi
  "$@" 2>"$COMPLAINT" || code=$?
  [ "$code" -eq 0 ] || tail -n 3 "$COMPLAINT" >&2
  return "$code"
}

# Reads the command line: sets command, one of the words of $1, ACTING, and
# flags, which are those of main.py.
command_line() {
  local commands=$1
  shift
  command='' flags=()
  while [ $# -gt 0 ]; do
    case $1 in
      --yes) ACTING=yes ;;
      --)
        shift
        flags=("$@")
        break
        ;;
      -*) die "$1 is no option; flags of main.py stand behind a lone --" ;;
      *)
        [ -z "$command" ] || die "$command or $1? Give one command."
        command=$1
        ;;
    esac
    shift
  done
  [ -n "$command" ] || die "give a command: $commands"
  [[ " $commands " = *" $command "* ]] ||
    die "'$command' is no command; the commands are: $commands"
}

announce() {
  [ "$ACTING" = yes ] || note 'Nothing is done without --yes. The commands:'
}

# The flags must name a workdir that begins with $2, where it outlives the
# machines; $1 processes, if several, must find each other.
check_flags() {
  local flag workdir=no multihost=no
  for flag in ${flags[@]+"${flags[@]}"}; do
    case $flag in
      "--workdir=$2"*) workdir=yes ;;
      --multihost | --nomultihost) multihost=yes ;;
    esac
  done
  [ "$workdir" = yes ] ||
    die 'give the flags of main.py behind --, with a workdir that outlives' \
      "the machines: -- --config=configs/llama_1b.py --workdir=$2..."
  if [ "$1" -gt 1 ] && [ "$multihost" = no ]; then flags+=(--multihost); fi
}
