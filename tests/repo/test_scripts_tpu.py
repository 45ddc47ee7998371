"""The launcher of a Cloud TPU VM, in a cloud of folders: steps, loss, deletion."""

import shlex
import subprocess

import pytest
from launch_stubs import (
    Checkout,
    assert_each_names,
    commands,
    nothing_was_run,
    refusal,
)

pytestmark = pytest.mark.one_keras

TPU = [
    *("--name=net", "--project=a project", "--zone=a-zone", "--accelerator_type=v4-8"),
    *("--runtime_version=tpu-vm-tf-2.20.0-pjrt", "--bucket=gs://bucket/runs/"),
    "--data_dir=gs://bucket/my data",
]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_a_dry_run_on_a_tpu_prints_all_steps_and_runs_nothing(checkout):
    options = ["--archives=gs://bucket/tars", "--spot", "--dry_run"]
    binding = "--gin_binding=a.b = 'c d'"
    result = checkout.run("train_imagenet_tpu.sh", *TPU, *options, binding)
    steps = [line for line in result.stdout.splitlines() if line.startswith("# ")]
    names = ("create", "install", "prepare", "train", "fetch", "delete")
    assert steps == [f"# {name}" for name in names]
    printed = commands(result)
    place = ["--project=a project", "--zone=a-zone", "--quiet"]
    assert [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "net", *place),
        *("--accelerator-type=v4-8", "--spot", "--version=tpu-vm-tf-2.20.0-pjrt"),
    ] in printed
    assert printed[-1] == [
        "gcloud",
        "compute",
        "tpus",
        "tpu-vm",
        "delete",
        "net",
        *place,
    ]
    on_vm = [
        shlex.split(words[-1].removeprefix("--command="))
        for words in printed
        if "ssh" in words
    ]
    [train] = [words for words in on_vm if "--use_tpu" in words]
    script = "rigl_keras.checkout/scripts/tpu_vm.sh"
    assert train == [
        *("env", script, "start", "train", script, "train"),
        *("gs://bucket/runs/net", "runs/net", "--use_tpu"),
        *("--gin_config=imagenet_resnet50/rigl.gin", "--seed=0"),
        '--gin_bindings=data.data_dir="gs://bucket/my data"',
        "--gin_bindings=a.b = 'c d'",
        '--gin_bindings=strategy.tpu_name="local"',
    ]
    assert [script, "install", "tensorflow-tpu==2.20.0", "libtpu==0.0.14"] in on_vm
    assert nothing_was_run(checkout)


def test_a_pod_is_named_and_installed_on_all_its_hosts(checkout):
    pod = "--runtime_version=tpu-vm-tf-2.20.0-pod-pjrt"
    result = checkout.run("train_imagenet_tpu.sh", *TPU, pod, "--dry_run")
    hosts = {
        shlex.split(words[-1].removeprefix("--command="))[1]: words[-2]
        for words in commands(result)
        if "ssh" in words
    }
    assert hosts["install"] == "--worker=all"
    [train] = [words[-1] for words in commands(result) if "--use_tpu" in words[-1]]
    train = shlex.split(train.removeprefix("--command="))
    assert train[:3] == ["env", "TPU_NAME=net", "TPU_LOAD_LIBRARY=0"]
    assert train[-1] == '--gin_bindings=strategy.tpu_name="net"'
    assert hosts["TPU_NAME=net"] == "--worker=0"


def test_a_queued_tpu_is_waited_for(checkout):
    options = ["--queued", "--step=create", "--dry_run"]
    create, wait = commands(checkout.run("train_imagenet_tpu.sh", *TPU, *options))
    assert create[3:6] == ["queued-resources", "create", "net"]
    assert "--node-id=net" in create
    assert wait[3:6] == ["queued-resources", "describe", "net"]


# A gcloud whose queue decides when it is asked for the second time.
QUEUE = """
case "$*" in
  *" describe "*)
    if [[ -e $CLOUD/asked ]]; then echo "%s"; else echo WAITING_FOR_RESOURCES; fi
    touch "$CLOUD/asked"
    ;;
esac
"""


@pytest.mark.parametrize(("state", "code"), [("ACTIVE", 0), ("FAILED", 1)])
def test_a_queue_is_asked_until_it_has_decided(checkout, state, code):
    checkout.add_tool("gcloud", QUEUE % state)
    result = checkout.run("train_imagenet_tpu.sh", *TPU, "--queued", "--step=create")
    assert result.returncode == code, result.stderr
    assert ("the queue refused the VM" in result.stderr) == (state == "FAILED")


def test_tpu_training_refuses_wrong_options_all_at_once(checkout):
    options = ["--bucket=/here", "--step=run", "--max_restarts=-1"]
    problems = refusal(checkout.run("train_imagenet_tpu.sh", *options))
    assert_each_names(
        problems,
        [
            "--data_dir=... is missing",
            *(f"--{name}=... is missing" for name in ("name", "project", "zone")),
            "--accelerator_type=... is missing",
            "--runtime_version=... is missing",
            "--bucket=/here must be in Google Cloud Storage",
            "--max_restarts=-1 must be",
            "--step=run must be",
        ],
    )


def test_tpu_training_refuses_a_machine_that_lacks_something(checkout):
    checkout.remove_tool("gcloud")
    (checkout.root / "new.gin").touch()
    problems = refusal(checkout.run("train_imagenet_tpu.sh", *TPU))
    assert_each_names(problems, ["gcloud is missing", "there are changes"])


def test_tpu_training_refuses_without_data_before_it_makes_a_vm(checkout):
    result = checkout.run("train_imagenet_tpu.sh", *TPU)
    assert result.returncode == 2
    assert "gs://bucket/my data holds no imagenet2012/5.*.*" in result.stderr
    assert [call[:2] for call in checkout.gcloud_calls()] == [["storage", "ls"]]


def prepare_in_bucket(checkout):
    prepared = checkout.cloud / "bucket/my data/imagenet2012/5.1.0"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").touch()


def vm_calls(checkout):
    return [
        call[3]
        for call in checkout.gcloud_calls()
        if call[:3] == ["compute", "tpus", "tpu-vm"] and call[3] in ("create", "delete")
    ]


@pytest.mark.release
def test_a_preempted_tpu_is_made_again_and_goes_on(checkout):
    prepare_in_bucket(checkout)
    plan = {"0": ["first_vm", "second_vm"]}
    result = checkout.run("train_imagenet_tpu.sh", *TPU, plan=plan)
    assert result.returncode == 0, result.stderr
    assert vm_calls(checkout) == ["create", "delete"] * 2
    assert not (checkout.cloud / "state").exists()
    fetched = checkout.root / "runs" / "net"
    assert (fetched / "results.json").exists()
    assert sorted(path.name for path in fetched.glob("ckpt-*")) == [
        "ckpt-10.data",
        "ckpt-10.index",
    ]
    # What the run removed is not in the bucket either.
    assert not list((checkout.cloud / "bucket/runs/net").glob("ckpt-1.*"))
    assert "worker 0, start 2: second_vm" in result.stdout


@pytest.mark.release
def test_a_failure_after_a_preemption_ends_the_training(checkout):
    prepare_in_bucket(checkout)
    plan = {"0": ["first_vm", 1]}
    result = checkout.run("train_imagenet_tpu.sh", *TPU, plan=plan)
    assert result.returncode == 1, result.stderr
    assert vm_calls(checkout) == ["create", "delete"] * 2


@pytest.mark.release
def test_a_vm_that_cannot_be_made_again_at_once_is_tried_again(checkout):
    prepare_in_bucket(checkout)
    plan = {"0": ["first_vm", "second_vm"], "create": [0, 1, 1, 0]}
    result = checkout.run("train_imagenet_tpu.sh", *TPU, plan=plan)
    assert result.returncode == 0, result.stderr
    assert vm_calls(checkout) == ["create", "delete"] * 4


def test_a_vm_that_cannot_be_made_the_first_time_is_told(checkout):
    prepare_in_bucket(checkout)
    result = checkout.run("train_imagenet_tpu.sh", *TPU, plan={"create": [1]})
    assert result.returncode == 1
    assert vm_calls(checkout) == ["create", "delete"]


@pytest.mark.release
@pytest.mark.parametrize(("code", "options"), [(1, []), (2, ["--keep"])])
def test_a_tpu_is_deleted_after_a_failure_unless_kept(checkout, code, options):
    prepare_in_bucket(checkout)
    result = checkout.run("train_imagenet_tpu.sh", *TPU, *options, plan={"0": [code]})
    assert result.returncode == code, result.stderr
    assert vm_calls(checkout) == ["create", *(["delete"] if not options else [])]
    assert ("the VM is kept" in result.stderr) == bool(options)


def test_a_tpu_of_that_name_is_left_alone(checkout):
    prepare_in_bucket(checkout)
    (checkout.cloud / "state").write_text("READY")
    result = checkout.run("train_imagenet_tpu.sh", *TPU)
    assert result.returncode == 2
    assert "there is a VM net already" in result.stderr
    assert vm_calls(checkout) == []


def test_a_signal_deletes_the_tpu(checkout):
    prepare_in_bucket(checkout)
    script = checkout.root / "scripts" / "train_imagenet_tpu.sh"
    process = subprocess.Popen(
        [script, *TPU],
        env=checkout.environment({"0": ["hang"]}),
        cwd=checkout.root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    line = process.stdout.readline()
    while line and "start 1: hang" not in line:
        line = process.stdout.readline()
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert vm_calls(checkout) == ["create", "delete"]
    assert not (checkout.cloud / "state").exists()


def test_a_configuration_that_would_not_get_to_the_tpu_is_refused(checkout):
    (checkout.root.parent / "my own.gin").touch()
    options = ["--config=imagenet_vgg16/set.gin", "--config=my own.gin"]
    refused = checkout.run("train_imagenet_tpu.sh", *TPU, *options)
    assert_each_names(refusal(refused), ["--config=my own.gin must be in gin/"])
