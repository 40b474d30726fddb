"""Trains on the nodes of a Kubernetes cluster: fills in launch/kubernetes.yaml and creates it.

    .venv/bin/python launch/kubernetes.py --image=IMAGE --claim=CLAIM [--name=NAME] [--nodes=N]
        [--gpus=G] [--namespace=NAMESPACE] [--dry-run] [-- flags of dpoq_jax.train]

--dry-run prints the object instead. What the image and the claim are is said in the YAML file,
which also holds everything that is not a flag here. Flags of training take the place of those in
it; --workdir is /data/runs/NAME unless given. `kubectl` must be set up.
"""

import argparse
from collections.abc import Sequence
import pathlib
import re
import subprocess
import sys
from typing import Any

import yaml

TEMPLATE = pathlib.Path(__file__).with_suffix('.yaml')
_USAGE = ' '.join((__doc__ or '').split('\n\n')[1].split())
# Names of pods get `-workers-0-N` and five more characters; a label holds 63.
_NAME = re.compile(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?')


def parse(arguments: Sequence[str]) -> argparse.Namespace:
  """Parses the options; those after `--` are in `flags`."""
  split = arguments.index('--') if '--' in arguments else len(arguments)
  parser = argparse.ArgumentParser(
    usage=_USAGE,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--image', required=True, help='image with the project installed')
  parser.add_argument('--claim', required=True, help='volume claim, for runs and data')
  parser.add_argument('--name', default='dpoq', help='name of the job (%(default)s)')
  parser.add_argument('--nodes', type=int, default=2, help='number of nodes (%(default)s)')
  parser.add_argument('--gpus', type=int, default=8, help='GPUs of a node (%(default)s)')
  parser.add_argument('--namespace', help='namespace; that of kubectl by default')
  parser.add_argument('--dry-run', action='store_true', help='print the object')
  options = parser.parse_args(arguments[:split])
  options.flags = list(arguments[split + 1 :])
  if not _NAME.fullmatch(options.name):
    parser.error(f"--name={options.name}: up to 40 lower-case letters, digits and '-'.")
  for name in ('nodes', 'gpus'):
    if getattr(options, name) < 1:
      parser.error(f'--{name}={getattr(options, name)}: give at least 1.')
  return options


def job_set(options: argparse.Namespace) -> dict[str, Any]:
  """Fills in the object to create."""
  result = yaml.safe_load(TEMPLATE.read_text())
  result['metadata']['name'] = options.name
  if options.namespace:
    result['metadata']['namespace'] = options.namespace
  (workers,) = result['spec']['replicatedJobs']
  job = workers['template']['spec']
  job['parallelism'] = job['completions'] = options.nodes
  pod = job['template']['spec']
  (container,) = pod['containers']
  container['image'] = options.image
  limits, requests = (container['resources'][kind] for kind in ('limits', 'requests'))
  share = options.gpus / limits['nvidia.com/gpu']
  # Cores and memory in proportion, as nodes have them.
  requests['cpu'] = f'{share * int(requests["cpu"]):g}'
  requests['memory'] = f'{share * int(requests["memory"].removesuffix("Gi")):g}Gi'
  limits['nvidia.com/gpu'] = options.gpus
  flags = options.flags
  if not any(re.match(r'--?workdir(=|$)', flag) for flag in flags):
    flags = [f'--workdir=/data/runs/{options.name}', *flags]
  # Kubernetes would take $(NAME) in a flag for a variable.
  flags = [flag.replace('$(', '$$(') for flag in flags]
  container['args'] = [
    f'--num-processes={options.nodes}' if arg.startswith('--num-processes=') else arg
    for arg in container['args']
    if arg.startswith(('--coordinator=', '--num-processes=', '--process-id='))
  ] + flags
  for volume in pod['volumes']:
    if 'persistentVolumeClaim' in volume:
      volume['persistentVolumeClaim']['claimName'] = options.claim
  return result


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns the exit status."""
  options = parse(arguments)
  text = yaml.safe_dump(job_set(options), sort_keys=False)
  if options.dry_run:
    sys.stdout.write(text)
    return 0
  return subprocess.run(['kubectl', 'create', '-f', '-'], input=text, text=True).returncode


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
