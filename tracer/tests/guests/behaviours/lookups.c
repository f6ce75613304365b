/* Names that lead round corners: links, /proc, other roots, passed descriptors. */
#include "guest.h"

BEHAVIOUR(fd_over_socket) {
  int s[2]; SAYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, s)); char c[CMSG_SPACE(sizeof(int))]; char x = 1;
  struct iovec v = {&x, 1}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
  if (!fork()) {
    struct cmsghdr *h; int fd; SAYS(fd = open("a", O_RDONLY));
    memset(c, 0, sizeof c); h = CMSG_FIRSTHDR(&m); h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_RIGHTS; h->cmsg_len = CMSG_LEN(sizeof(int)); memcpy(CMSG_DATA(h), &fd, sizeof fd);
    SAYS(sendmsg(s[0], &m, 0)); _exit(0);
  }
  SAYS(recvmsg(s[1], &m, 0)); int fd; memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd); SAYS(chdir("/")); SAYS(fchmod(fd, 0600)); wait(0);
}
BEHAVIOUR(proc_self_fd) { int fd; char p[64]; SAYS(fd = open("a", O_RDONLY)); sprintf(p, "/proc/self/fd/%d", fd); put(open(p, O_WRONLY)); sprintf(p, "/proc/thread-self/fd/%d", fd); SAYS(chmod(p, 0600)); }
BEHAVIOUR(proc_self_fd_dir) { int fd; char p[64]; SAYS(fd = open("dir", O_RDONLY)); sprintf(p, "/proc/self/fd/%d/sub/n", fd); fill(p); sprintf(p, "/proc/%d/fd/%d/m", getpid(), fd); fill(p); }
BEHAVIOUR(proc_self_cwd) { fill("/proc/self/cwd/c"); SAYS(chdir("dir")); fill("/proc/thread-self/cwd/../b"); }
BEHAVIOUR(proc_self_root) { char cwd[4096], p[5000]; MUST(getcwd(cwd, sizeof cwd)); sprintf(p, "/proc/self/root%s/c", cwd); fill(p); }
BEHAVIOUR(device_directory_of_descriptors) { int fd; char p[64]; SAYS(fd = open("a", O_RDONLY)); sprintf(p, "/dev/fd/%d", fd); if (access("/dev/fd", F_OK) < 0) _exit(PREVENTED); put(open(p, O_WRONLY)); }
BEHAVIOUR(standard_output_file) { int fd; SAYS(fd = open("out", O_WRONLY | O_CREAT, 0644)); SAYS(dup2(fd, 1)); if (access("/dev/stdout", F_OK) < 0) _exit(PREVENTED); put(open("/dev/stdout", O_WRONLY | O_TRUNC)); SAYS(chmod("/proc/self/fd/1", 0600)); }
BEHAVIOUR(descriptor_of_a_child) {
  int go[2], back[2]; SAYS(pipe(go)); SAYS(pipe(back)); char x, p[64]; pid_t c = fork();
  if (!c) { int fd; SAYS(fd = open("a", O_RDONLY)); SAYS(dup2(fd, 50)); SAYS(chdir("dir/sub")); MUST(write(back[1], "x", 1) == 1); read(go[0], &x, 1); _exit(0); }
  MUST(read(back[0], &x, 1) == 1); sprintf(p, "/proc/%d/fd/50", c); put(open(p, O_WRONLY)); sprintf(p, "/proc/%d/cwd/n", c); fill(p); sprintf(p, "/proc/%d/task/%d/cwd/../m", c, c); fill(p); MUST(write(go[1], "x", 1) == 1); joined(c);
}
BEHAVIOUR(thread_of_itself) { char p[64]; sprintf(p, "/proc/self/task/%d/cwd/c", getpid()); fill(p); fill("/proc/thread-self/root/proc/self/cwd/d"); fill("/proc/./self//cwd/dir/../e"); }
BEHAVIOUR(link_to_itself_in_proc) { SAYS(symlink("/proc/self/cwd", "s")); fill("s/c"); SAYS(symlink("/proc/self/cwd/a", "t")); put(open("t", O_WRONLY)); SAYS(chdir("dir")); fill("../s/sub/n"); }
BEHAVIOUR(link_by_relative_proc) { int p; SAYS(p = open("/proc", O_RDONLY)); int fd; SAYS(fd = openat(p, "self/cwd/c", O_WRONLY | O_CREAT, 0644)); put(fd); char w[4096]; MUST(getcwd(w, sizeof w)); SAYS(chdir("/proc/self")); fill("cwd/../../../../../../../proc/self/fd/../../self/comm"); SAYS(chdir(w)); fill("d"); }
BEHAVIOUR(absolute_link) { char w[4096], p[5000]; MUST(getcwd(w, sizeof w)); sprintf(p, "%s/dir/../a", w); SAYS(symlink(p, "s")); put(open("s", O_WRONLY)); sprintf(p, "%s/dlink", w); SAYS(symlink(p, "t")); fill("t/sub/../n"); }
BEHAVIOUR(links_in_a_circle) { SAYS(symlink("y", "x")); SAYS(symlink("x", "y")); MUST(open("x", O_WRONLY | O_CREAT, 0644) < 0 && errno == ELOOP); MUST(mkdir("x/d", 0755) < 0); SAYS(unlink("x")); fill("y"); }
BEHAVIOUR(links_as_many_as_allowed) {
  char n[8], t[8]; strcpy(t, "made"); for (int i = 0; i < 41; i++) { sprintf(n, "l%d", i); SAYS(symlink(t, n)); strcpy(t, n); }
  /* Where a mount elsewhere makes the kernel look again, it goes on counting. */
  int fd; for (int i = 0; i < 1000 && (fd = open("l39", O_WRONLY | O_CREAT, 0644)) < 0 && errno == ELOOP; i++) {} SAYS(fd); put(fd); MUST(open("l40", O_WRONLY) < 0 && errno == ELOOP); }
BEHAVIOUR(link_with_dots) { SAYS(symlink("dir/sub/../../dir/./sub", "s")); fill("s/../n"); fill("s/./m"); SAYS(mkdir("s/new", 0755)); SAYS(rename("s/new", "s/../new")); }
BEHAVIOUR(link_with_slash) { fill("dlink/sub/../x"); SAYS(mkdir("dlink/y", 0755)); MUST(unlink("dlink/") < 0); SAYS(chmod("dlink/", 0700)); SAYS(symlink("dir/", "s")); fill("s/z"); }
BEHAVIOUR(link_exclusive) { MUST(open("dangling", O_WRONLY | O_CREAT | O_EXCL, 0644) < 0 && errno == EEXIST); MUST(open("link", O_WRONLY | O_NOFOLLOW) < 0 && errno == ELOOP); MUST(mkdir("dangling", 0755) < 0); fill("dangling"); }
BEHAVIOUR(link_made_by_another) { pid_t c = fork(); if (!c) { SAYS(rename("dir", "real")); SAYS(symlink("real", "dir")); _exit(0); } joined(c); fill("dir/sub/n"); fill("dlink/m"); }
BEHAVIOUR(empty_and_null) { MUST(open("", O_WRONLY | O_CREAT, 0644) < 0 && errno == ENOENT); MUST(mkdir(0, 0) < 0 && errno == EFAULT); MUST(openat(-7, "x", O_WRONLY | O_CREAT, 0644) < 0 && errno == EBADF); MUST(openat(0, "x", O_WRONLY | O_CREAT, 0644) < 0); fill("c"); }
BEHAVIOUR(absolute_beside_descriptor) { char p[5000], w[4096]; MUST(getcwd(w, sizeof w)); sprintf(p, "%s/c", w); int fd; SAYS(fd = openat(-7, p, O_WRONLY | O_CREAT, 0644)); put(fd); sprintf(p, "//%s//dir///n", w); SAYS(mkdirat(12345, p, 0755)); }
BEHAVIOUR(open_beneath) {
  struct { uint64_t flags, mode, resolve; } how = {O_WRONLY | O_CREAT, 0644, 0x08}; int d; SAYS(d = open("dir", O_PATH)); int fd = syscall(437, d, "sub/n", &how, sizeof how); NEEDS(fd); put(fd);
  MUST(syscall(437, d, "../a", &how, sizeof how) < 0 && errno == EXDEV); how.resolve = 0x04; SAYS(fd = syscall(437, d, "m", &how, sizeof how)); put(fd); how.resolve = 0x10; SAYS(symlink("/sub/o", "dir/s")); SAYS(fd = syscall(437, d, "s", &how, sizeof how)); put(fd); }
BEHAVIOUR(descriptor_kept_over_exec) { int fd; SAYS(fd = open("a", O_RDONLY)); SAYS(dup2(fd, 40)); SAYS(fd = open("dir", O_RDONLY)); SAYS(dup2(fd, 41)); SAYS(chdir("/")); become(self, "uses_kept_descriptors"); }
PART(uses_kept_descriptors) { SAYS(fchmod(40, 0600)); SAYS(mkdirat(41, "n", 0755)); SAYS(fchdir(41)); fill("m"); }
BEHAVIOUR(working_directory_shared) { pid_t c = syscall(SYS_clone, CLONE_FS | CLONE_FILES | SIGCHLD, 0, 0, 0, 0); if (!c) { SAYS(chdir("dir")); SAYS(dup2(open(".", O_RDONLY), 60)); _exit(0); } joined(c); fill("n"); SAYS(mkdirat(60, "m", 0755)); }
BEHAVIOUR(working_directory_by_descriptor) { int d; SAYS(d = open("dir/sub", O_PATH)); SAYS(fchdir(d)); fill("n"); SAYS(rename("../sub", "../sub2")); fill("m"); SAYS(chdir("..")); fill("o"); }
BEHAVIOUR(working_directory_gone_and_back) { SAYS(mkdir("gone", 0755)); SAYS(chdir("gone")); SAYS(rmdir("../gone")); SAYS(mkdir("../gone", 0755)); MUST(open("x", O_WRONLY | O_CREAT, 0644) < 0 && errno == ENOENT); fill("../gone/y"); }
