"""The fields of a JobSet that launch/ uses, and nothing else.

Written after the Go types of kubernetes-sigs/jobset (v1alpha2) and of
Kubernetes (batch/v1, core/v1). A cluster ignores or refuses a field that it
does not know; here it is an error.

A dict has these fields, each of which must be there unless its name ends with
'?'. A list has items of one kind. A type is a value; a tuple lists the values
that are allowed. In a Map the names are free.
"""

from typing import Any


class Map:
  """A mapping from any string to values of one kind."""

  def __init__(self, values: Any):
    self.values = values


_CHIPS = {'google.com/tpu': int}

_POD = {
  'restartPolicy': ('Never',),
  'serviceAccountName?': str,
  'terminationGracePeriodSeconds': int,
  'hostNetwork': bool,
  'dnsPolicy': (
    'ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None',
  ),
  'nodeSelector': Map(str),
  'containers': [
    {
      'name': str,
      'image': str,
      'command': [str],
      'args': [str],
      'ports': [{'containerPort': int}],
      'resources': {'requests': _CHIPS, 'limits': _CHIPS},
    }
  ],
}  # fmt: skip

_JOB = {
  'completions': int,
  'parallelism': int,
  'backoffLimit': int,
  'podFailurePolicy': {
    'rules': [
      {
        'action': ('FailJob', 'FailIndex', 'Ignore', 'Count'),
        'onExitCodes': {
          'containerName': str,
          'operator': ('In', 'NotIn'),
          'values': [int],
        },
      }
    ]
  },
  'template': {'spec': _POD},
}

JOBSET = {
  'apiVersion': ('jobset.x-k8s.io/v1alpha2',),
  'kind': ('JobSet',),
  'metadata': {'name': str, 'namespace': str, 'annotations': Map(str)},
  'spec': {
    'failurePolicy': {
      'maxRestarts': int,
      'rules': [
        {
          'name': str,
          'action': (
            'FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts',
          ),
          'onJobFailureReasons': [
            ('BackoffLimitExceeded', 'DeadlineExceeded', 'FailedIndexes',
             'MaxFailedIndexesExceeded', 'PodFailurePolicy'),
          ],
        }
      ],
    },
    'replicatedJobs': [
      {'name': str, 'replicas': int, 'template': {'spec': _JOB}}
    ],
  },
}  # fmt: skip


def faults(value: Any, kind: Any = JOBSET, where: str = '') -> list[str]:
  """What in a manifest is not as the schema has it; empty: nothing."""
  if isinstance(kind, Map):
    if not isinstance(value, dict):
      return [f'{where}: no mapping']
    return _all(
      faults(v, kind.values, f'{where}.{k}') for k, v in value.items()
    )
  if isinstance(kind, dict):
    if not isinstance(value, dict):
      return [f'{where}: no mapping']
    known = {name.rstrip('?'): inner for name, inner in kind.items()}
    missing = [n for n in kind if not n.endswith('?') and n not in value]
    return (
      [f'{where}.{n}: missing' for n in missing]
      + [f'{where}.{n}: unknown' for n in value if n not in known]
      + _all(
        faults(v, known[n], f'{where}.{n}')
        for n, v in value.items()
        if n in known
      )
    )
  if isinstance(kind, list):
    if not isinstance(value, list) or not value:
      return [f'{where}: no list']
    return _all(
      faults(v, kind[0], f'{where}[{i}]') for i, v in enumerate(value)
    )
  if isinstance(kind, tuple):
    return [] if value in kind else [f'{where}: {value!r} is none of {kind}']
  return [] if type(value) is kind else [f'{where}: {value!r} is no {kind}']


def _all(lists: Any) -> list[str]:
  return [fault for faults_of_one in lists for fault in faults_of_one]
