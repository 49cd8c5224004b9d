"""A real SLURM on one Debian machine, for tests: two virtual nodes with two counted fake GPUs each.

    python tests/slurm/cluster.py start     # about 10 s the first time (apt-get), 1 s after that
    python tests/slurm/cluster.py stop      # daemons, configuration and state are gone again

As a context manager (`with running():`) it stops only a cluster that it started itself.  Daemons, keys,
sockets, logs and job state live in one temporary directory; outside it there are only symbolic links in
/etc/slurm, because the SLURM plugin of Snakemake drops SLURM_CONF from the environment of its jobs, so
that no other place is looked at.  The same links say where a running cluster keeps its state.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NODES, GPUS, CPUS, MEM_MB = 2, 2, 4, 8000  # per cluster; then per node, claimed and not measured
ETC = Path("/etc/slurm")
PREFIX = "dblocks-slurm-"  # of the state directory, and what tells our configuration from another one
PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]

SLURM_CONF = """\
ClusterName=dblocks-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job is held for cred_expire + 1 s: 121 s by default.
AuthInfo=socket={state}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmdPidFile={state}/run/slurmd.%n.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd.%n.log
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/spool.%n
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
# Needs no cgroups, which containers rarely hand out.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# The nodes claim more than the machine may have.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# squeue has to know a finished job until Snakemake has asked for it (every 40 s and slower).
MinJobAge=300
KillWait=5
{nodes}
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL DefaultTime=60 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


class Unavailable(RuntimeError):
    """This machine cannot run the test cluster; the message says why."""


def call(*cmd, timeout=15, check=True, **kwargs):
    """Run a command with a time limit and return its standard output; RuntimeError if it fails."""
    done = subprocess.run(
        [str(c) for c in cmd],
        timeout=timeout,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        **kwargs,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(done.args)} exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def wait_until(condition, seconds, what):
    """Poll `condition` until it holds; TimeoutError(what) if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"gave up after {seconds} s waiting for {what}")
        time.sleep(0.1)


def state_dir():
    """Where the cluster that /etc/slurm points at keeps its state, or None if there is none of ours."""
    conf = ETC / "slurm.conf"
    state = Path(os.readlink(conf)).parent if conf.is_symlink() else Path()
    return state if state.name.startswith(PREFIX) else None


def check_machine():
    """Raise Unavailable unless this is a machine on which the cluster may be started."""
    if not sys.platform.startswith("linux") or shutil.which("apt-get") is None:
        raise Unavailable("the test cluster needs Linux with apt-get")
    if os.geteuid() != 0:
        raise Unavailable("the test cluster needs root")
    if os.path.lexists(ETC / "slurm.conf") and state_dir() is None:
        raise Unavailable(f"{ETC}/slurm.conf exists: not touching a machine that has a SLURM of its own")
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        raise Unavailable(f"the name of this machine ({socket.gethostname()}) does not resolve") from None


def install():
    """Install what is missing of the SLURM packages, without letting dpkg start their services."""
    binaries = ["sbin/slurmctld", "sbin/slurmd", "sbin/munged", "bin/sbatch"]
    if all(Path("/usr", binary).exists() for binary in binaries):
        return
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        call("apt-get", "update", "-qq", timeout=120, env=env)
        call("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES, timeout=400, env=env)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the SLURM packages cannot be installed: {error}") from error
    finally:
        if ours:
            policy.unlink()


def configure(state):
    """Write keys and configuration under `state` and link them from /etc/slurm."""
    for name in ("run", "log", "ctld", "munge", "gpu", *(f"spool.n{i}" for i in range(1, NODES + 1))):
        (state / name).mkdir(parents=True)
    state.chmod(0o755)  # munge refuses a socket that not everybody can reach
    key = state / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    # Devices and not a bare Count=2, because only then do jobs get CUDA_VISIBLE_DEVICES.
    for i in range(GPUS):
        os.mknod(state / "gpu" / f"fake{i}", 0o666 | 0o020000, os.makedev(1, 3))
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={17000 + i} CPUs={CPUS} "
        f"Sockets=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEM_MB} Gres=gpu:fake:{GPUS}"
        for i in range(1, NODES + 1)
    )
    gres = f"AutoDetect=off\nName=gpu Type=fake File={state}/gpu/fake[0-{GPUS - 1}]\n"
    files = {
        "slurm.conf": SLURM_CONF.format(host=host, state=state, nodes=nodes),
        "gres.conf": gres,
        # Nothing here uses a cgroup, but slurmd looks for the version by itself and fails on a mixed mount.
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
    }
    ETC.mkdir(exist_ok=True)
    for name, text in files.items():
        (state / name).write_text(text)
        (ETC / name).unlink(missing_ok=True)
        (ETC / name).symlink_to(state / name)


def idle_nodes():
    """How many nodes can take jobs."""
    out = call("sinfo", "-h", "-N", "-p", "main", "-t", "idle,mix,alloc", "-o", "%N", check=False)
    return len(set(out.split()))


def start(parent=None):
    """Bring the cluster up and return its state directory, a new one under `parent` (default: TMPDIR).

    A cluster that answers is left as it is.
    """
    check_machine()
    if state_dir() is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if idle_nodes() == NODES:
                return state_dir()
        stop()  # left over from something that was killed
    install()
    state = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
    try:
        configure(state)
        munge = state / "munge"
        options = {"key-file": "key", "socket": "socket", "seed-file": "seed", "log-file": "log"}
        paths = [f"--{option}={munge / name}" for option, name in options.items()]
        call("/usr/sbin/munged", *paths, f"--pid-file={state}/run/munged.pid")
        call("/usr/sbin/slurmctld")
        for i in range(1, NODES + 1):
            call("/usr/sbin/slurmd", "-N", f"n{i}")
        wait_until(lambda: idle_nodes() == NODES, 30, "the nodes")
    except BaseException:
        for log in sorted((state / "log").glob("*.log")):  # stop() removes them
            print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
        stop()
        shutil.rmtree(state, ignore_errors=True)
        raise
    return state


def job_ids():
    """The jobs that are not over (pending, running, completing)."""
    return sorted(set(call("squeue", "-h", "-o", "%A").split()))


def cancel_all(seconds=30):
    """Cancel every job and wait until none is left; every test ends with this."""

    def gone():
        # Asked for again each time: a job that requeues itself on SIGTERM comes back once more.
        ids = job_ids()
        if ids:
            call("scancel", *ids, check=False)
        return not ids

    wait_until(gone, seconds, "the jobs to end")


def stop():
    """Take the cluster down and remove its state; does nothing where there is none of ours."""
    state = state_dir()
    if state is None:
        return
    with contextlib.suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
        if (state / "run" / "slurmctld.pid").exists():
            cancel_all()
    for pattern in ("slurm*.pid", "munged.pid"):  # munged last: the others still talk through it
        end([int(f.read_text()) for f in (state / "run").glob(pattern) if is_daemon(f.read_text().strip())])
    for link in ETC.iterdir():
        if link.is_symlink() and Path(os.readlink(link)).parent == state:
            link.unlink()
    shutil.rmtree(state, ignore_errors=True)


def is_daemon(pid):
    """Whether this process id still is one of a SLURM daemon: a stale pid file may name somebody else's."""
    comm = Path(f"/proc/{pid}/comm")
    return pid.isdigit() and comm.exists() and comm.read_text().strip() in ("munged", "slurmctld", "slurmd")


def end(pids, seconds=10):
    """Ask daemons to end, and make those end that have not after some seconds."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds, "daemons")
            return


@contextlib.contextmanager
def running(parent=None):
    """The cluster for the length of a with block; one that was up before stays up after it."""
    before = state_dir()
    state = start(parent)
    try:
        yield state
    finally:
        cancel_all() if state == before else stop()


if __name__ == "__main__":
    if sys.argv[1:] == ["start"]:
        print(start())
    elif sys.argv[1:] == ["stop"]:
        stop()
    else:
        sys.exit(__doc__)
