/* One behaviour for each name; run in a directory that holds
 *   a  b (files)  dir/sub/file  link -> a  dlink -> dir  dangling -> made
 * and exits with 0 if everything went as the behaviour wants. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

#define MUST(x) do { if (!(x)) { dprintf(2, "%d: %s: %s\n", __LINE__, #x, strerror(errno)); _exit(9); } } while (0)
#define SAYS(x) MUST((x) >= 0)

static const char *self;

static void put(int fd) { MUST(write(fd, "changed", 7) == 7); SAYS(close(fd)); }
static void fill(const char *path) { int fd; SAYS(fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644)); put(fd); }

static void open_variants(void) {
  put(open("a", O_WRONLY)); put(open("b", O_RDWR)); put(open("c", O_WRONLY | O_CREAT | O_EXCL, 0600));
  put(open("dir//./sub/../sub/file", O_WRONLY | O_APPEND)); put(openat(open("dir", O_RDONLY | O_DIRECTORY), "sub/g", O_CREAT | O_WRONLY, 0644));
}
static void creat_call(void) { put(creat("c", 0644)); put(creat("a", 0644)); }
static void truncating_read_only(void) { SAYS(open("a", O_RDONLY | O_TRUNC)); }
static void open_how(void) {
  struct { uint64_t flags, mode, resolve; } how = {O_WRONLY | O_CREAT, 0644, 0};
  int d; SAYS(d = open("dir", O_PATH));
  put(syscall(437, AT_FDCWD, "c", &how, sizeof how));
  how.resolve = 0x10; /* RESOLVE_IN_ROOT */
  put(syscall(437, d, "/sub/../../sub/n", &how, sizeof how));
}
static void tmpfile_by_proc(void) {
  int fd; char p[64]; SAYS(fd = open(".", O_TMPFILE | O_RDWR, 0644)); MUST(write(fd, "x", 1) == 1);
  sprintf(p, "/proc/self/fd/%d", fd); SAYS(linkat(AT_FDCWD, p, AT_FDCWD, "c", AT_SYMLINK_FOLLOW));
}
static void tmpfile_by_fd(void) {
  int fd; SAYS(fd = open("dir", O_TMPFILE | O_RDWR, 0644)); MUST(write(fd, "x", 1) == 1);
  if (linkat(fd, "", AT_FDCWD, "dir/c", AT_EMPTY_PATH) < 0) MUST(errno == ENOENT || errno == EPERM);
}
static void rename_file(void) { SAYS(rename("a", "dir/z")); SAYS(rename("b", "c")); }
static void rename_at2(void) { SAYS(syscall(SYS_renameat2, open("dir", O_RDONLY), "sub/file", AT_FDCWD, "c", 1)); }
static void exchange(void) { SAYS(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "dir", 2)); }
static void rename_dir(void) { SAYS(rename("dir", "moved")); fill("moved/sub/file"); }
static void link_calls(void) { SAYS(link("a", "c")); SAYS(linkat(AT_FDCWD, "link", AT_FDCWD, "d", AT_SYMLINK_FOLLOW)); SAYS(linkat(AT_FDCWD, "link", AT_FDCWD, "e", 0)); }
static void symlink_calls(void) { SAYS(symlink("x", "c")); SAYS(symlinkat("y", open("dir", O_RDONLY), "s")); }
static void fifo(void) { SAYS(mkfifo("c", 0644)); SAYS(mknodat(open("dir", O_RDONLY), "n", S_IFREG | 0600, 0)); }
static void removals(void) { SAYS(unlink("a")); SAYS(unlink("dir/sub/file")); SAYS(rmdir("dir/sub")); SAYS(unlinkat(AT_FDCWD, "dir", AT_REMOVEDIR)); }
static void mmap_write(void) {
  int fd; char *p; SAYS(fd = open("a", O_RDWR)); p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); MUST(p != MAP_FAILED);
  close(fd); p[0] = 'Z';
}
static void fd_over_socket(void) {
  int s[2]; SAYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, s)); char c[CMSG_SPACE(sizeof(int))]; char x = 1;
  struct iovec v = {&x, 1}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
  if (!fork()) {
    struct cmsghdr *h; int fd; SAYS(fd = open("a", O_RDONLY));
    memset(c, 0, sizeof c); h = CMSG_FIRSTHDR(&m); h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_RIGHTS; h->cmsg_len = CMSG_LEN(sizeof(int)); memcpy(CMSG_DATA(h), &fd, sizeof fd);
    SAYS(sendmsg(s[0], &m, 0)); _exit(0);
  }
  SAYS(recvmsg(s[1], &m, 0)); int fd; memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd); SAYS(chdir("/")); SAYS(fchmod(fd, 0600)); wait(0);
}
static void proc_self_fd(void) { int fd; char p[64]; SAYS(fd = open("a", O_RDONLY)); sprintf(p, "/proc/self/fd/%d", fd); put(open(p, O_WRONLY)); sprintf(p, "/proc/thread-self/fd/%d", fd); SAYS(chmod(p, 0600)); }
static void proc_self_fd_dir(void) { int fd; char p[64]; SAYS(fd = open("dir", O_RDONLY)); sprintf(p, "/proc/self/fd/%d/sub/n", fd); fill(p); sprintf(p, "/proc/%d/fd/%d/m", getpid(), fd); fill(p); }
static void proc_self_cwd(void) { fill("/proc/self/cwd/c"); SAYS(chdir("dir")); fill("/proc/thread-self/cwd/../b"); }
static void proc_self_root(void) { char cwd[4096], p[5000]; MUST(getcwd(cwd, sizeof cwd)); sprintf(p, "/proc/self/root%s/c", cwd); fill(p); }
static void empty_path(void) { int fd; SAYS(fd = open("a", O_PATH)); SAYS(fchownat(fd, "", 12, 13, AT_EMPTY_PATH)); SAYS(syscall(SYS_fchownat, open("dir", O_RDONLY), "", 12, 13, AT_EMPTY_PATH)); }
static void read_only_fd_metadata(void) {
  int fd; SAYS(fd = open("a", O_RDONLY)); SAYS(fchmod(fd, 0600)); SAYS(fd = open("b", O_RDONLY)); SAYS(fchown(fd, 12, 13));
  SAYS(fd = open("dir/sub/file", O_RDONLY)); struct timespec t[2] = {{1, 2}, {3, 4}}; SAYS(futimens(fd, t));
}
static void xattr_fd(void) { int fd; SAYS(fd = open("a", O_RDONLY)); if (fsetxattr(fd, "user.x", "1", 1, 0) < 0) MUST(errno == EOPNOTSUPP); if (setxattr("link", "user.y", "1", 1, 0) < 0) MUST(errno == EOPNOTSUPP); if (removexattr("a", "user.y") < 0) MUST(errno == EOPNOTSUPP); }
static void times(void) {
  struct utimbuf u = {1, 2}; struct timeval v[2] = {{1, 2}, {3, 4}}; struct timespec t[2] = {{5, 6}, {7, 8}};
  SAYS(utime("a", &u)); SAYS(utimes("b", v)); SAYS(utimensat(AT_FDCWD, "link", t, AT_SYMLINK_NOFOLLOW)); SAYS(utimensat(AT_FDCWD, "dlink/sub", t, 0));
  SAYS(syscall(SYS_futimesat, open("dir/sub/file", O_RDONLY), 0, v));
}
static void chmod_chown(void) { SAYS(chmod("link", 0600)); SAYS(chown("b", 12, 13)); SAYS(lchown("link", 12, 13)); SAYS(fchmodat(AT_FDCWD, "dlink/sub", 0700, 0)); syscall(452, AT_FDCWD, "dir", 0700, 0); }
static void chroot_escape(void) {
  int fd; SAYS(fd = open(".", O_RDONLY)); SAYS(chroot("dir")); fill("/inside"); fill("../outside_of_it");
  SAYS(chdir("/")); fill("../../stays"); SAYS(fchdir(fd)); fill("c"); fill("dir/../d");
}
static void *thread_chdir(void *x) { MUST(!unshare(CLONE_FS)); SAYS(chdir("dir")); fill("t"); return x; }
static void chdir_in_thread(void) { pthread_t t; pthread_create(&t, 0, thread_chdir, 0); pthread_join(t, 0); fill("m"); }
static void *thread_exec(void *x) { execl(self, self, "creat_call", (char *)0); _exit(8); return x; }
static void exec_from_thread(void) { pthread_t t; pthread_create(&t, 0, thread_exec, 0); for (;;) pause(); }
static void vforked(void) { pid_t p = vfork(); if (!p) { open("c", O_WRONLY | O_CREAT, 0644); _exit(0); } SAYS(p); int s; waitpid(p, &s, 0); fill("d"); }
static void daemon_writes_later(void) {
  int go[2]; SAYS(pipe(go));
  if (!fork()) { setsid(); signal(SIGTERM, SIG_IGN); signal(SIGHUP, SIG_IGN); if (!fork()) { fill("early"); close(go[0]); MUST(write(go[1], "x", 1) == 1); for (int i = 0;; i++) { char n[32]; sprintf(n, "dir/late%d", i % 100); fill(n); } } _exit(0); }
  char x; MUST(read(go[0], &x, 1) == 1);
}
static void bind_socket(void) { struct sockaddr_un u = {AF_UNIX, "dir/sock"}; SAYS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, sizeof u)); SAYS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, 2)); }
static void truncate_call(void) { SAYS(truncate("link", 1)); int fd; SAYS(fd = open("b", O_RDWR)); SAYS(ftruncate(fd, 0)); }
static void dirfd_after_rename(void) { int d; SAYS(d = open("dir/sub", O_RDONLY)); SAYS(rename("dir", "moved")); put(openat(d, "n", O_WRONLY | O_CREAT, 0644)); SAYS(unlinkat(d, "../sub/file", 0)); }
static void link_parent(void) { fill("dlink/sub/n"); SAYS(unlink("dlink/sub/file")); SAYS(mkdir("dlink/new/", 0755)); }
static void link_final(void) { fill("link"); SAYS(symlink("../link", "dir/chain")); put(open("dir/chain", O_WRONLY)); }
static void link_before_dot(void) { SAYS(lchown("dlink/.", 5, 6)); SAYS(utimensat(AT_FDCWD, "dlink/./.", 0, AT_SYMLINK_NOFOLLOW)); }
static void link_dangling(void) { fill("dangling"); }
static void link_swapped(void) { for (int i = 0; i < 6; i++) { unlink("s"); SAYS(symlink(i % 2 ? "dir" : "dir/sub", "s")); char p[16]; sprintf(p, "s/%d", i); fill(p); } }
static void dir_becomes_link(void) {
  SAYS(mkdir("d", 0755)); fill("d/x"); SAYS(unlink("d/x")); SAYS(rmdir("d")); SAYS(symlink("dir", "d")); fill("d/y");
  SAYS(mkdir("e", 0755)); fill("e/x"); SAYS(rename("e", "f")); SAYS(symlink("dir/sub", "g")); SAYS(rename("g", "e")); fill("e/y");
}
static void dir_made_again(void) {
  SAYS(mkdir("d", 0755)); fill("d/x"); mkdir("d", 0755); fill("d/y"); SAYS(unlink("d/x")); SAYS(unlink("d/y")); SAYS(rmdir("d"));
  SAYS(mkdir("d", 0755)); fill("d/z"); SAYS(rename("d", "e")); SAYS(symlink("dir", "d")); mkdir("d", 0755); fill("d/w");
}
static void removed_cwd(void) { SAYS(mkdir("gone", 0755)); SAYS(chdir("gone")); SAYS(rmdir("../gone")); fill("../c"); }
static void hard_link_write(void) { SAYS(mkdir("new", 0755)); SAYS(link("a", "new/l")); fill("new/l"); SAYS(unlink("new/l")); }
static void unlinked_then_fchmod(void) { int fd; SAYS(fd = open("a", O_RDWR)); SAYS(unlink("a")); SAYS(fchmod(fd, 0600)); SAYS(fd = open("b (deleted)", O_RDWR | O_CREAT, 0644)); SAYS(fchmod(fd, 0600)); }
static void lost_name(void) { int fd; SAYS(link("b", "other")); SAYS(fd = open("b", O_RDONLY)); SAYS(unlink("b")); SAYS(fchmod(fd, 0600)); }
static void x32_attempt(void) { MUST(syscall(0x40000000 | SYS_unlink, "a") < 0 && errno == ENOSYS); }
static void io_uring_denied(void) { char p[256] = {0}; MUST(syscall(425, 4, p) < 0 && errno == ENOSYS); }
static void future_call_denied(void) { MUST(syscall(471, "a") < 0 && errno == ENOSYS); }
static int filtering(unsigned flags, int nr, unsigned answer) {
  struct sock_filter c[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, answer), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  struct sock_fprog p = {4, c}; prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}
static void listener_denied(void) { MUST(filtering(SECCOMP_FILTER_FLAG_NEW_LISTENER, SYS_unlink, SECCOMP_RET_USER_NOTIF) < 0 && errno == EINVAL); fill("c"); }
static void own_filter(void) { SAYS(filtering(0, SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV)); MUST(mkdir("no", 0755) < 0 && errno == EXDEV); fill("c"); }
static void own_trace_filter(void) { SAYS(filtering(0, SYS_unlink, SECCOMP_RET_TRACE | 7)); SAYS(unlink("a")); }
static void clone_untraced(void) {
  pid_t p = syscall(SYS_clone, 0x00800000 | SIGCHLD, 0, 0, 0, 0); SAYS(p);
  if (!p) { fill("c"); _exit(0); } int s; SAYS(waitpid(p, &s, 0)); MUST(s == 0);
}
static void clone3_refused(void) { char a[88] = {0}; MUST(syscall(435, a, sizeof a) < 0 && errno == ENOSYS); }
static void kill_itself(void) { fill("c"); kill(getpid(), SIGKILL); }
static void killed_children(void) { for (int i = 0; i < 30; i++) { pid_t p = fork(); if (!p) for (;;) { fill("c"); unlink("c"); } for (volatile int k = 0; k < 100000; k++) {} kill(p, SIGKILL); waitpid(p, 0, 0); } }
static void other_user(void) { SAYS(chmod(".", 0777)); SAYS(setgid(1000)); SAYS(setuid(1000)); fill("c"); fill("dir/../d"); SAYS(chdir("/proc/self/cwd")); fill("e"); SAYS(chmod("e", 0600)); }
static void effective_user(void) { char cwd[4096], p[5000]; MUST(getcwd(cwd, sizeof cwd)); SAYS(chmod(".", 0777)); SAYS(setegid(1000)); SAYS(seteuid(1000)); sprintf(p, "%s/c", cwd); fill(p); SAYS(seteuid(0)); sprintf(p, "%s/d", cwd); fill(p); SAYS(seteuid(1000)); sprintf(p, "%s/e", cwd); fill(p); }
static void user_of_program(void) { SAYS(chmod(".", 0777)); SAYS(setgid(1000)); SAYS(setuid(1000)); execl(self, self, "creat_new", (char *)0); _exit(8); }
static void creat_new(void) { put(creat("new1", 0644)); SAYS(mkdir("new2", 0755)); SAYS(rename("new1", "new2/x")); }
static void not_dumpable(void) { SAYS(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); fill("c"); int fd; SAYS(fd = open("a", O_RDONLY)); SAYS(fchmod(fd, 0600)); }
static void core_dump(void) { struct rlimit r = {1 << 20, 1 << 20}; setrlimit(RLIMIT_CORE, &r); fill("c"); abort(); }
static void stopped_child(void) {
  int s; pid_t p = fork();
  if (!p) { raise(SIGSTOP); fill("c"); _exit(0); }
  SAYS(waitpid(p, &s, WUNTRACED)); MUST(WIFSTOPPED(s) && WSTOPSIG(s) == SIGSTOP); SAYS(kill(p, SIGCONT)); SAYS(waitpid(p, &s, 0)); MUST(s == 0);
}
static volatile int got; static void on_rt(int n) { got += n; }
static void real_time_signal(void) { signal(SIGRTMIN + 3, on_rt); SAYS(kill(getpid(), SIGRTMIN + 3)); MUST(got == SIGRTMIN + 3); fill("c"); }
static void *thread_wait(void *x) { for (;;) pause(); return x; }
static void threads_setuid(void) { pthread_t t; for (int i = 0; i < 4; i++) pthread_create(&t, 0, thread_wait, 0); SAYS(chmod(".", 0777)); SAYS(setuid(1000)); fill("c"); }
static void *thread_last(void *x) { struct timespec t = {0, 20000000}; nanosleep(&t, 0); fill("c"); exit(0); return x; }
static void leader_exits_first(void) { pthread_t t; pthread_create(&t, 0, thread_last, 0); pthread_exit(0); }
static void mounting(void) { if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) {} if (!mount("none", "dir", "tmpfs", 0, 0)) close(creat("dir/hidden", 0600)); }
static void ptraces_itself(void) { MUST(syscall(SYS_ptrace, 0, 0, 0, 0) < 0 && errno == EPERM); fill("c"); }
static void nothing(void) { close(open("a", O_RDONLY)); }
static void proc_write(void) { int fd = open("/proc/self/oom_score_adj", O_WRONLY); SAYS(fd); put(open("/dev/null", O_WRONLY)); }
static void page_border(void) {
  char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); MUST(p != MAP_FAILED); SAYS(munmap(p + 4096, 4096));
  strcpy(p + 4094, "c"); fill(p + 4094); MUST(open(p + 4096, O_WRONLY) < 0 && errno == EFAULT); MUST(mkdir((char *)16, 0) < 0);
}

static const struct { const char *name; void (*run)(void); } all[] = {
#define B(n) {#n, n}
  B(open_variants), B(creat_call), B(truncating_read_only), B(open_how), B(tmpfile_by_proc), B(tmpfile_by_fd), B(rename_file), B(rename_at2), B(exchange), B(rename_dir),
  B(link_calls), B(symlink_calls), B(fifo), B(removals), B(mmap_write), B(fd_over_socket), B(proc_self_fd), B(proc_self_fd_dir), B(proc_self_cwd), B(proc_self_root),
  B(empty_path), B(read_only_fd_metadata), B(xattr_fd), B(times), B(chmod_chown), B(chroot_escape), B(chdir_in_thread), B(exec_from_thread), B(vforked), B(daemon_writes_later),
  B(bind_socket), B(truncate_call), B(dirfd_after_rename), B(link_parent), B(link_final), B(link_before_dot), B(link_dangling), B(link_swapped), B(dir_becomes_link), B(dir_made_again), B(removed_cwd), B(hard_link_write),
  B(unlinked_then_fchmod), B(lost_name), B(x32_attempt), B(io_uring_denied), B(future_call_denied), B(listener_denied), B(own_filter), B(own_trace_filter), B(clone_untraced), B(clone3_refused),
  B(kill_itself), B(killed_children), B(other_user), B(effective_user), B(user_of_program), B(creat_new), B(not_dumpable), B(core_dump), B(stopped_child), B(real_time_signal), B(threads_setuid),
  B(leader_exits_first), B(mounting), B(ptraces_itself), B(nothing), B(proc_write), B(page_border),
};

int main(int argc, char **argv) {
  self = argv[0];
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (argc > 1 && !strcmp(argv[1], all[i].name)) { all[i].run(); return 0; }
  return 7;
}
