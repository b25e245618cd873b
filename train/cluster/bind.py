"""On which network process 0 listens."""

import ipaddress
import socket


def bind_address(address: str) -> str | None:
  """Where the coordinator of a cluster is to listen.

  It asks nobody who they are, so it listens on one network only, where that can
  be known: the one on which the others reach it.

  Args:
    address: HOST:PORT, by which the processes reach it.

  Returns:
    ADDRESS:PORT of this machine; None: the host is not one of its addresses,
    as behind an address translation, or goes by several.
  """
  host, _, port = address.rpartition(':')
  host = host.strip('[]')
  found = {
    str(place[4][0])
    for place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
  }
  # A machine may know itself by a loopback address, and the others do not.
  alone = host == 'localhost' or _is_loopback(host)
  local = [h for h in sorted(found) if alone or not _is_loopback(h)]
  # The others try one address after the other.
  local = [h for h in local if _is_here(h)]
  versions = [ipaddress.ip_address(h).version for h in local]
  if not local or len(set(versions)) < len(versions):
    return None
  chosen = local[versions.index(min(versions))]
  return f'[{chosen}]:{port}' if ':' in chosen else f'{chosen}:{port}'


def _is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _is_here(host: str) -> bool:
  """Whether an address belongs to this machine."""
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  with socket.socket(family, socket.SOCK_STREAM) as found:
    try:
      found.bind((host, 0))
    except OSError:
      return False
  return True
