/* What every behaviour may use. A behaviour runs in a directory that holds
 *   a  b (files)  dir/sub/file  link -> a  dlink -> dir  dangling -> made
 * and its process exits with 0 if everything went as it wants, with PREVENTED
 * if the kernel does not let it here, and with 9 if it is broken. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

#define PREVENTED 3

/* Machines that came late have only the calls with `at`. */
#ifndef SYS_mkdir
#define SYS_mkdir SYS_mkdirat
#define SYS_symlink SYS_symlinkat
#define SYS_unlink SYS_unlinkat
#endif
/* Sets times through a descriptor, by the oldest call for that. */
#ifdef SYS_futimesat
#define FUTIMES(fd, times) syscall(SYS_futimesat, fd, 0, times)
#else
#define FUTIMES(fd, times) futimes(fd, times)
#endif

/* Ends the process unless x; what the kernel refuses is no fault of the guest. */
#define MUST(x) do { errno = 0; if (!(x)) ended(__FILE__, __LINE__, #x, errno); } while (0)
#define SAYS(x) MUST((x) >= 0)
/* A call that not every kernel and file system has. */
#define NEEDS(x) do { if ((x) < 0) _exit(PREVENTED); } while (0)

/* Defines a behaviour and enters it into the list that main runs from. */
#define BEHAVIOUR(name) ENTER(name, 1)
/* As BEHAVIOUR, for the second program of another one. */
#define PART(name) ENTER(name, 0)
#define ENTER(name, listed) \
  static void name(void); \
  __attribute__((constructor)) static void enter_##name(void) { enter(#name, __FILE__, listed, name); } \
  static void name(void)

/* The path of this program. */
extern const char *self;

void enter(const char *name, const char *file, int listed, void (*run)(void));
void ended(const char *file, int line, const char *what, int why);
/* Writes to a descriptor and closes it. */
void put(int fd);
/* Writes a file, which need not exist. */
void fill(const char *path);
/* Waits for a child, which has to end well. */
void joined(pid_t child);
/* Runs another behaviour instead of this one. */
void become(const char *program, const char *behaviour);
/* Copies this program. */
void copy_self(const char *path, mode_t mode);
/* Lets other users write here, and become one of them. */
void open_to_all(void);
