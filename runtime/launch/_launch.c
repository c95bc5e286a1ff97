// SPDX-License-Identifier: Apache-2.0
//
// Runs a launch plan in a new process: one loop over system calls, nothing else.
//
//   parent thread                          child (new namespaces, the same memory)
//   -------------                          ---------------------------------------
//   block signals
//   clone3(CLONE_VM|CLONE_VFORK|CLONE_NEW*) ─┐
//     suspended                              ├─ for each step: system call, stamp the time
//     suspended                              ├─ a step failed: write (step, errno), _exit
//   returns: the stamp `started` ◄───────────┴─ execve done, or exited
//   restore signals
//
// Parent and child share memory until exec (clone(2), CLONE_VM), so a launch costs the same whatever
// the size of the caller, and the result needs no pipe: the child writes it where the parent reads.
// The child may therefore call nothing that keeps state: no malloc, no stdio, no libc but
// clock_gettime, which is bound before the clone. System calls are made by hand, since libc's
// wrapper writes errno, which belongs to the suspended parent.
//
// Plain C without Python's headers; runtime/launch/launcher.py loads it by ctypes and fills the structs.

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#if !defined(__x86_64__) || !defined(SYS_clone3) || !defined(SYS_openat2)
#error "the native launcher knows x86-64 with Linux 5.6 headers; elsewhere the forked one is used"
#endif

enum { CHECK_EXECUTABLE = -1, MAX_INTERPRETERS = 4, SLOTS = 64 };

struct step {
    int32_t number;         // system call, or CHECK_EXECUTABLE
    int32_t result;         // slot that keeps the returned value, or -1
    uint32_t from_slot;     // bit n: argument n is the number of a slot
    int32_t accept[5];      // errnos that do not stop the launch, 0-terminated
    uint64_t arguments[6];
};

struct launch {
    struct clone_args clone;
    const struct step *steps;
    uint64_t count;
    uint64_t *stamps;       // one a step: CLOCK_MONOTONIC in nanoseconds
    int64_t slots[SLOTS];
    uint64_t started;       // when the parent went on
    int32_t reached;        // the last step begun
    int32_t error;          // its errno, when the launch failed; 0 otherwise
};

static inline long system_call(long n, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                               uint64_t f)
{
    long result;
    register uint64_t r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Is `path`, and every interpreter its "#!" line leads to, a file that can be reached without a
// magic link of /proc? 0, or -errno. execve itself reports whether it can be executed.
static long check_executable(const char *path)
{
    char line[2][256];
    for (int depth = 0; depth <= MAX_INTERPRETERS; depth++) {
        // O_NONBLOCK: a FIFO of that name must not hold us up.
        struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC,
                               .resolve = RESOLVE_NO_MAGICLINKS};
        long fd = system_call(SYS_openat2, (uint64_t)AT_FDCWD, (uint64_t)path, (uint64_t)&how,
                              sizeof how, 0, 0);
        if (fd < 0)
            return fd;
        char *text = line[depth & 1];
        long length = system_call(SYS_read, fd, (uint64_t)text, 255, 0, 0, 0);
        system_call(SYS_close, fd, 0, 0, 0, 0, 0);
        if (length < 0)
            return length;
        text[length] = 0;
        if (text[0] != '#' || text[1] != '!')
            return 0;
        for (text += 2; *text == ' ' || *text == '\t'; text++)
            ;
        path = text;
        while (*text && *text != ' ' && *text != '\t' && *text != '\n')
            text++;
        *text = 0;
    }
    return -ELOOP;
}

static int accepted(const struct step *step, long error)
{
    for (unsigned i = 0; i < 5 && step->accept[i]; i++)
        if (step->accept[i] == error)
            return 1;
    return 0;
}

static __attribute__((noreturn, noinline)) void child(struct launch *launch)
{
    for (uint64_t i = 0; i < launch->count; i++) {
        const struct step *step = &launch->steps[i];
        uint64_t a[6];
        for (unsigned n = 0; n < 6; n++)
            a[n] = step->from_slot >> n & 1 ? (uint64_t)launch->slots[step->arguments[n]]
                                            : step->arguments[n];
        launch->reached = (int32_t)i;
        long result = step->number == CHECK_EXECUTABLE
                          ? check_executable((const char *)a[0])
                          : system_call(step->number, a[0], a[1], a[2], a[3], a[4], a[5]);
        launch->stamps[i] = now();
        if (result < 0 && result >= -4095 && !accepted(step, -result)) {
            launch->error = (int32_t)-result;
            break;
        }
        if (step->result >= 0)
            launch->slots[step->result] = result;
    }
    for (;;)
        system_call(SYS_exit_group, 127, 0, 0, 0, 0, 0);
}

// Returns the child's pid, or -errno if there is none. Whether the plan succeeded is in
// launch->error.
__attribute__((visibility("default"))) long steelyard_launch(struct launch *launch)
{
    uint64_t all = ~0ull, before = 0;
    now();  // binds clock_gettime, so that the child does not have to
    system_call(SYS_rt_sigprocmask, 0 /* SIG_BLOCK */, (uint64_t)&all, (uint64_t)&before, 8, 0, 0);
    // With CLONE_VFORK the child may use the suspended parent's stack below this frame: `child`
    // never returns, and between the system call and its call nothing is popped.
    long pid = system_call(SYS_clone3, (uint64_t)&launch->clone, sizeof launch->clone, 0, 0, 0, 0);
    if (pid == 0)
        child(launch);
    launch->started = now();
    system_call(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, (uint64_t)&before, 0, 8, 0, 0);
    return pid;
}
