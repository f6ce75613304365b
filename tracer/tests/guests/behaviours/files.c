/* Opening, writing and cutting files. */
#include "guest.h"

BEHAVIOUR(open_variants) {
  put(open("a", O_WRONLY)); put(open("b", O_RDWR)); put(open("c", O_WRONLY | O_CREAT | O_EXCL, 0600));
  put(open("dir//./sub/../sub/file", O_WRONLY | O_APPEND)); put(openat(open("dir", O_RDONLY | O_DIRECTORY), "sub/g", O_CREAT | O_WRONLY, 0644));
}
BEHAVIOUR(creat_call) { put(creat("c", 0644)); put(creat("a", 0644)); }
BEHAVIOUR(truncating_read_only) { SAYS(open("a", O_RDONLY | O_TRUNC)); }
BEHAVIOUR(open_how) {
  struct { uint64_t flags, mode, resolve; } how = {O_WRONLY | O_CREAT, 0644, 0};
  int d; SAYS(d = open("dir", O_PATH));
  put(syscall(437, AT_FDCWD, "c", &how, sizeof how));
  how.resolve = 0x10; /* RESOLVE_IN_ROOT */
  /* The kernel asks to try again where anything on the machine is renamed while it goes up (openat2(2), EAGAIN). */
  int fd; do fd = syscall(437, d, "/sub/../../sub/n", &how, sizeof how); while (fd < 0 && errno == EAGAIN);
  put(fd);
}
BEHAVIOUR(tmpfile_by_proc) {
  int fd; char p[64]; SAYS(fd = open(".", O_TMPFILE | O_RDWR, 0644)); MUST(write(fd, "x", 1) == 1);
  sprintf(p, "/proc/self/fd/%d", fd); SAYS(linkat(AT_FDCWD, p, AT_FDCWD, "c", AT_SYMLINK_FOLLOW));
}
BEHAVIOUR(tmpfile_by_fd) {
  int fd; SAYS(fd = open("dir", O_TMPFILE | O_RDWR, 0644)); MUST(write(fd, "x", 1) == 1);
  if (linkat(fd, "", AT_FDCWD, "dir/c", AT_EMPTY_PATH) < 0) MUST(errno == ENOENT || errno == EPERM);
}
BEHAVIOUR(mmap_write) {
  int fd; char *p; SAYS(fd = open("a", O_RDWR)); p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); MUST(p != MAP_FAILED);
  close(fd); p[0] = 'Z';
}
BEHAVIOUR(truncate_call) { SAYS(truncate("link", 1)); int fd; SAYS(fd = open("b", O_RDWR)); SAYS(ftruncate(fd, 0)); }
BEHAVIOUR(nothing) { close(open("a", O_RDONLY)); }
BEHAVIOUR(proc_write) { int fd = open("/proc/self/oom_score_adj", O_WRONLY); SAYS(fd); put(open("/dev/null", O_WRONLY)); }
BEHAVIOUR(holes_and_room) {
  int fd; SAYS(fd = open("a", O_RDWR)); if (fallocate(fd, 0, 0, 8192) < 0) MUST(errno == EOPNOTSUPP); if (fallocate(fd, 3, 0, 2) < 0) MUST(errno == EOPNOTSUPP);
  SAYS(fd = open("sparse", O_WRONLY | O_CREAT, 0644)); SAYS(lseek(fd, 1 << 20, SEEK_SET)); put(fd);
}
BEHAVIOUR(copied_by_the_kernel) {
  int from, to; SAYS(from = open("a", O_RDONLY)); SAYS(to = open("c", O_WRONLY | O_CREAT, 0644)); NEEDS(copy_file_range(from, 0, to, 0, 3, 0));
  loff_t o = 1; SAYS(sendfile(to, from, (off_t *)&o, 2)); SAYS(to = open("b", O_RDWR)); ioctl(to, 0x40049409 /* FICLONE */, from);
}
BEHAVIOUR(spliced) { int p[2], fd; SAYS(pipe(p)); MUST(write(p[1], "spliced", 7) == 7); SAYS(fd = open("b", O_WRONLY)); MUST(splice(p[0], 0, fd, 0, 7, 0) == 7); }
BEHAVIOUR(written_in_pieces) { int fd; struct iovec v[2] = {{"one", 3}, {"two", 3}}; SAYS(fd = open("a", O_WRONLY | O_APPEND | O_DSYNC)); MUST(writev(fd, v, 2) == 6); MUST(pwritev2(fd, v, 2, 9, 0) == 6); MUST(pwrite(fd, "x", 1, 2) == 1); }
BEHAVIOUR(written_by_a_child) { int fd; SAYS(fd = open("a", O_RDWR)); joined(fork() ?: (put(fd), _exit(0), 0)); }
BEHAVIOUR(mapped_and_made_writable) {
  int fd; SAYS(fd = open("a", O_RDWR)); char *p = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0); MUST(p != MAP_FAILED); SAYS(close(fd));
  SAYS(unlink("b")); SAYS(mprotect(p, 4096, PROT_READ | PROT_WRITE)); pid_t c = fork(); if (!c) { p[1] = 'Y'; SAYS(msync(p, 4096, MS_SYNC)); _exit(0); } joined(c);
}
BEHAVIOUR(mapping_of_a_mapping) {
  int fd; SAYS(fd = open("a", O_RDWR)); char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), n[64]; MUST(p != MAP_FAILED); close(fd);
  sprintf(n, "/proc/self/map_files/%lx-%lx", (long)p, (long)p + 4096); NEEDS(fd = open(n, O_WRONLY)); put(fd);
}
BEHAVIOUR(same_length_same_time) {
  struct stat s; int fd; SAYS(stat("a", &s)); SAYS(fd = open("a", O_WRONLY)); MUST(write(fd, "FIRST", 5) == 5); close(fd); struct timespec t[2] = {s.st_atim, s.st_mtim}; SAYS(utimensat(AT_FDCWD, "a", t, 0)); }
BEHAVIOUR(made_again_alike) { SAYS(unlink("a")); int fd; SAYS(fd = open("a", O_WRONLY | O_CREAT | O_EXCL, 0644)); MUST(write(fd, "first", 5) == 5); SAYS(close(fd)); }
BEHAVIOUR(made_and_removed) { fill("c"); SAYS(unlink("c")); SAYS(mkdir("d", 0755)); fill("d/x"); SAYS(unlink("d/x")); SAYS(rmdir("d")); }
BEHAVIOUR(locked_only) { int fd; struct flock l = {.l_type = F_WRLCK}; SAYS(fd = open("a", O_RDWR)); SAYS(fcntl(fd, F_SETLK, &l)); SAYS(fsync(fd)); }
BEHAVIOUR(fifo_written) { SAYS(mkfifo("p", 0600)); int fd; SAYS(fd = open("p", O_RDWR)); MUST(write(fd, "x", 1) == 1); char x; MUST(read(fd, &x, 1) == 1); }
BEHAVIOUR(device_files) { SAYS(mknod("null", S_IFCHR | 0666, 1 << 8 | 3)); SAYS(mknod("block", S_IFBLK | 0600, 7 << 8)); int fd = open("null", O_WRONLY); if (fd >= 0) put(fd); }
BEHAVIOUR(large_offsets) { int fd; SAYS(fd = open("a", O_RDWR)); SAYS(ftruncate(fd, 1ll << 33)); SAYS(ftruncate(fd, 2)); SAYS(truncate("b", 1 << 20)); }
BEHAVIOUR(descriptors_moved) {
  int fd, d; SAYS(fd = open("dir", O_RDONLY)); SAYS(d = fcntl(fd, F_DUPFD, 900)); SAYS(close(fd)); SAYS(fd = openat(d, "sub/file", O_WRONLY)); SAYS(dup2(fd, 0)); put(0); SAYS(dup3(d, 3, O_CLOEXEC)); SAYS(mkdirat(3, "n", 0755)); }
BEHAVIOUR(memory_only) { int fd; NEEDS(fd = memfd_create("a", 0)); SAYS(fchmod(fd, 0600)); SAYS(ftruncate(fd, 10)); put(fd); }
BEHAVIOUR(temporary_never_named) { int fd; NEEDS(fd = open("dir", O_TMPFILE | O_RDWR, 0600)); SAYS(fchmod(fd, 0644)); put(fd); }
BEHAVIOUR(many_files) { SAYS(mkdir("many", 0755)); for (int i = 0; i < 100; i++) { char n[32]; sprintf(n, "many/%d", i); fill(n); } for (int i = 0; i < 100; i += 2) { char n[32]; sprintf(n, "many/%d", i); SAYS(unlink(n)); } }
