"""Other people's tools as arms: `runc`, `crun`, `bwrap`, `podman`, `docker`.

Each runs the scenario's workload on the same layers, in the same private network, and is watched
from the same place as a container of Steelyard's own. What differs is the tool:

| peer            | rootfs                            | limits   | options                        |
|-----------------|-----------------------------------|----------|--------------------------------|
| `runc`, `crun`  | overlay mounted by us, OCI bundle | all      | `path`                         |
| `bwrap`         | overlay mounted by us             | none     | `path`                         |
| `podman`        | its own storage, loaded once      | all      | `path`, `runtime`              |
| `docker`        | its daemon's storage, loaded once | all      | `path`                         |

**Milestones.** `requested` is stamped just before the first system call that makes anything for the
instance, the overlay included. `isolated` cannot be seen from outside and is absent. `started` is
the kernel's own stamp of the workload's execve, from its process events (see `events.py`); where
those cannot be had, and for docker, it is absent. `ready` is judged by the common prober; for
a workload that ends, its end is that of the workload itself where process events are to be had,
else that of the peer's command, which then includes the peer's clearing up. runc and the engines
copy what the workload prints, so that it may arrive after that end: it is waited for, and the end
keeps its stamp. `stopped` is the end of the peer's command, asked for in the peer's own way
(`runc kill`, `podman kill`; bwrap has none: SIGKILL to its pid namespace). `removed` comes after
the peer's own removal, and of what we made for it.

**Where they run.** In a mount namespace of the arm, so that nothing of them is seen on the host and
everything goes with them. On a host with hybrid cgroups crun refuses to work; there crun, and
podman which calls it, do not see the v2 tree, which has no controllers anyway.
"""
