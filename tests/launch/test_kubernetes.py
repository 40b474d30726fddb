from collections.abc import Callable
import json
from pathlib import Path
import subprocess
import sys
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.launch import stubs

MANIFEST = stubs.ROOT / 'launch/kubernetes.yaml'
SCHEMA = json.loads(Path(__file__).with_name('jobset_v1alpha2.json').read_text())
REQUIRED = ['--image=registry/dpoq_jax:1', '--claim=runs']


def validate(job_set: dict[str, Any]) -> None:
  """Checks a JobSet, and the jobs in it as those of the newest Kubernetes whose schema is there."""
  jsonschema.validate(job_set, SCHEMA)
  for replicated in job_set['spec']['replicatedJobs']:
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': replicated['name']}}
    job['spec'] = replicated['template']['spec']
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def render(*options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
  command = [sys.executable, stubs.ROOT / 'launch/kubernetes.py', *options]
  return stubs.run(*command, cwd=Path(__file__).parent, path=path)


def workers(job_set: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """The job of the workers, and its container."""
  (replicated,) = job_set['spec']['replicatedJobs']
  job = replicated['template']['spec']
  (container,) = job['template']['spec']['containers']
  return job, container


@pytest.fixture
def manifest() -> dict[str, Any]:
  return yaml.safe_load(MANIFEST.read_text())


def test_manifest_is_valid(manifest: dict[str, Any]):
  validate(manifest)


@pytest.mark.parametrize(
  'spoil',
  [
    lambda m: m.update(apiVersion='jobset.x-k8s.io/v1'),
    lambda m: m['spec'].update(failurepolicy={}),
    lambda m: m['spec']['failurePolicy'].update(restartStrategy='Replace'),
    lambda m: m['spec']['failurePolicy']['rules'][0].update(name='wrong flags'),
    lambda m: m['spec']['coordinator'].pop('replicatedJob'),
    lambda m: workers(m)[0].update(paralellism=2),
    lambda m: workers(m)[0]['template']['spec'].update(restartPolice='Never'),
    lambda m: workers(m)[1]['env'].append({'value': '1'}),
    lambda m: workers(m)[1]['ports'][0].update(containerPort='8476'),
  ],
)
def test_schemas_find_mistakes(manifest: dict[str, Any], spoil: Callable[[dict[str, Any]], object]):
  spoil(manifest)
  with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
    validate(manifest)


def test_manifest_is_consistent(manifest: dict[str, Any]):
  spec = manifest['spec']
  job, container = workers(manifest)
  assert job['parallelism'] == job['completions']
  assert f'--num-processes={job["completions"]}' in container['args']
  # The coordinator is process 0, of the job that runs.
  assert spec['coordinator'] == {'replicatedJob': 'workers', 'jobIndex': 0, 'podIndex': 0}
  assert spec['replicatedJobs'][0]['name'] == 'workers'
  assert '--process-id=$(JOB_COMPLETION_INDEX)' in container['args']
  address = container['env'][0]
  assert address['name'] == 'COORDINATOR'
  assert 'jobset.sigs.k8s.io/coordinator' in address['valueFrom']['fieldRef']['fieldPath']
  port = container['ports'][0]['containerPort']
  assert f'--coordinator=$(COORDINATOR):{port}' in container['args']
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['onExitCodes']['containerName'] == container['name']
  # A policy on how pods fail is for those that are not restarted in place.
  assert job['template']['spec']['restartPolicy'] == 'Never'


def test_dry_run_prints_what_would_be_created():
  done = render(
    *REQUIRED,
    '--name=run-1',
    '--nodes=4',
    '--gpus=2',
    '--namespace=vision',
    '--dry-run',
    '--',
    '--config=a:b',
    '--x=$(HOME) "y"',
  )
  assert done.returncode == 0, done.stderr
  job_set = yaml.safe_load(done.stdout)
  validate(job_set)
  assert job_set['metadata'] == {'name': 'run-1', 'namespace': 'vision'}
  job, container = workers(job_set)
  assert (job['parallelism'], job['completions']) == (4, 4)
  assert container['image'] == 'registry/dpoq_jax:1'
  assert container['resources'] == {
    'limits': {'nvidia.com/gpu': 2},
    'requests': {'cpu': '16', 'memory': '64Gi'},
  }
  assert container['args'] == [
    '--coordinator=$(COORDINATOR):8476',
    '--num-processes=4',
    '--process-id=$(JOB_COMPLETION_INDEX)',
    '--workdir=/data/runs/run-1',
    '--config=a:b',
    '--x=$$(HOME) "y"',
  ]
  volumes = {volume['name']: volume for volume in job['template']['spec']['volumes']}
  assert volumes['data']['persistentVolumeClaim'] == {'claimName': 'runs'}


def test_workdir_that_is_given_is_the_only_one():
  done = render(*REQUIRED, '--dry-run', '--', '--workdir', '/data/x')
  _, container = workers(yaml.safe_load(done.stdout))
  assert container['args'][3:] == ['--workdir', '/data/x']


def test_creates_with_kubectl(tmp_path: Path):
  created = tmp_path / 'created'
  stubs.executable(tmp_path / 'bin/kubectl', f'echo "$*" > {created}; cat >> {created}; exit 3')
  done = render(*REQUIRED, path=tmp_path / 'bin')
  assert done.returncode == 3
  arguments, _, text = created.read_text().partition('\n')
  assert arguments == 'create -f -'
  assert text == render(*REQUIRED, '--dry-run').stdout


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--image=x'], '--claim'),
    ([*REQUIRED, '--name=Run_1'], '--name=Run_1'),
    ([*REQUIRED, f'--name={"x" * 41}'], '40 lower-case'),
    ([*REQUIRED, '--nodes=0'], '--nodes=0'),
    ([*REQUIRED, '--config=x'], '--config=x'),
  ],
)
def test_wrong_use_says_so(options: list[str], message: str):
  done = render(*options)
  assert done.returncode == 2
  assert message in done.stderr.splitlines()[-1]
