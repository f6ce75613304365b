/* Modes, owners, times and attributes. */
#include "guest.h"

BEHAVIOUR(empty_path) { int fd; SAYS(fd = open("a", O_PATH)); SAYS(fchownat(fd, "", 12, 13, AT_EMPTY_PATH)); SAYS(syscall(SYS_fchownat, open("dir", O_RDONLY), "", 12, 13, AT_EMPTY_PATH)); }
BEHAVIOUR(read_only_fd_metadata) {
  int fd; SAYS(fd = open("a", O_RDONLY)); SAYS(fchmod(fd, 0600)); SAYS(fd = open("b", O_RDONLY)); SAYS(fchown(fd, 12, 13));
  SAYS(fd = open("dir/sub/file", O_RDONLY)); struct timespec t[2] = {{1, 2}, {3, 4}}; SAYS(futimens(fd, t));
}
BEHAVIOUR(xattr_fd) { int fd; SAYS(fd = open("a", O_RDONLY)); if (fsetxattr(fd, "user.x", "1", 1, 0) < 0) MUST(errno == EOPNOTSUPP); if (setxattr("link", "user.y", "1", 1, 0) < 0) MUST(errno == EOPNOTSUPP); if (removexattr("a", "user.y") < 0) MUST(errno == EOPNOTSUPP); }
BEHAVIOUR(times) {
  struct utimbuf u = {1, 2}; struct timeval v[2] = {{1, 2}, {3, 4}}; struct timespec t[2] = {{5, 6}, {7, 8}};
  SAYS(utime("a", &u)); SAYS(utimes("b", v)); SAYS(utimensat(AT_FDCWD, "link", t, AT_SYMLINK_NOFOLLOW)); SAYS(utimensat(AT_FDCWD, "dlink/sub", t, 0));
  SAYS(FUTIMES(open("dir/sub/file", O_RDONLY), v));
}
BEHAVIOUR(chmod_chown) { SAYS(chmod("link", 0600)); SAYS(chown("b", 12, 13)); SAYS(lchown("link", 12, 13)); SAYS(fchmodat(AT_FDCWD, "dlink/sub", 0700, 0)); syscall(452, AT_FDCWD, "dir", 0700, 0); }
BEHAVIOUR(access_list) { unsigned char acl[] = {2,0,0,0, 1,0,6,0,255,255,255,255, 2,0,4,0,232,3,0,0, 4,0,4,0,255,255,255,255, 16,0,4,0,255,255,255,255, 32,0,4,0,255,255,255,255}; SAYS(setxattr("a", "system.posix_acl_access", acl, sizeof acl, 0)); }
BEHAVIOUR(default_access_list) { unsigned char acl[] = {2,0,0,0, 1,0,7,0,255,255,255,255, 4,0,5,0,255,255,255,255, 32,0,0,0,255,255,255,255}; SAYS(setxattr("dir", "system.posix_acl_default", acl, sizeof acl, 0)); fill("dir/inherits"); }
BEHAVIOUR(file_capability) { unsigned cap[5] = {0x02000001, 1 << 10, 0, 0, 0}; SAYS(setxattr("a", "security.capability", cap, sizeof cap, 0)); int fd; SAYS(fd = open("b", O_RDONLY)); SAYS(fsetxattr(fd, "security.capability", cap, sizeof cap, 0)); SAYS(fremovexattr(fd, "security.capability")); }
BEHAVIOUR(capability_lost_by_writing) { unsigned cap[5] = {0x02000001, 1 << 10, 0, 0, 0}; SAYS(setxattr("a", "security.capability", cap, sizeof cap, 0)); put(open("a", O_WRONLY)); }
BEHAVIOUR(attribute_of_a_directory) { SAYS(setxattr("dlink/sub", "user.d", "1", 1, 0)); SAYS(setxattr("dir", "user.e", "1", 1, XATTR_CREATE)); SAYS(removexattr("dir", "user.e")); }
BEHAVIOUR(attribute_of_a_link) { SAYS(lsetxattr("link", "trusted.l", "1", 1, 0)); SAYS(lsetxattr("a", "trusted.a", "1", 1, 0)); SAYS(lremovexattr("link", "trusted.l")); }
BEHAVIOUR(attribute_by_new_calls) {
  struct { uint64_t value; uint32_t size, flags; } v = {(uint64_t)"1", 1, 0}; int fd; SAYS(fd = open("b", O_RDONLY));
  NEEDS(syscall(463, AT_FDCWD, "a", 0, "user.n", &v, sizeof v)); SAYS(syscall(463, fd, "", AT_EMPTY_PATH, "user.m", &v, sizeof v)); SAYS(syscall(466, AT_FDCWD, "link", 0, "user.n"));
}
BEHAVIOUR(mode_by_new_call) { NEEDS(syscall(452, AT_FDCWD, "a", 0600, AT_SYMLINK_NOFOLLOW)); int fd; SAYS(fd = open("b", O_PATH)); NEEDS(syscall(452, fd, "", 0600, AT_EMPTY_PATH)); }
BEHAVIOUR(flags_of_an_inode) { int fd, f; SAYS(fd = open("a", O_RDONLY)); NEEDS(ioctl(fd, 0x80086601, &f)); f |= 0x40; NEEDS(ioctl(fd, 0x40086602, &f)); }
BEHAVIOUR(sticky_and_set_id) { SAYS(chmod("dir", 07777)); SAYS(chmod("a", 06755)); put(open("a", O_WRONLY)); SAYS(chown("b", -1, getegid())); }
BEHAVIOUR(now_and_omitted) { struct timespec t[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}}; SAYS(utimensat(AT_FDCWD, "a", t, 0)); t[1].tv_nsec = UTIME_NOW; SAYS(utimensat(AT_FDCWD, "dir", t, 0)); SAYS(utimensat(AT_FDCWD, "b", 0, 0)); }
BEHAVIOUR(times_by_descriptor) { int fd; SAYS(fd = open("dir", O_RDONLY)); struct timespec t[2] = {{1, 2}, {3, 4}}; SAYS(futimens(fd, t)); struct timeval v[2] = {{1, 2}, {3, 4}}; SAYS(fd = open("a", O_RDONLY)); SAYS(FUTIMES(fd, v)); SAYS(syscall(SYS_utimensat, AT_FDCWD, "dlink", t, AT_SYMLINK_NOFOLLOW)); }
BEHAVIOUR(owner_of_links) { SAYS(lchown("dangling", 7, 8)); SAYS(fchownat(AT_FDCWD, "dlink", 7, 8, AT_SYMLINK_NOFOLLOW)); SAYS(fchownat(AT_FDCWD, "dlink", 9, 9, 0)); int fd; SAYS(fd = open("link", O_PATH | O_NOFOLLOW)); SAYS(fchownat(fd, "", 3, 4, AT_EMPTY_PATH)); }
BEHAVIOUR(metadata_of_the_working_directory) { SAYS(chmod(".", 0711)); SAYS(chdir("dir")); SAYS(chmod("..", 0755)); SAYS(utimensat(AT_FDCWD, ".", 0, 0)); SAYS(chmod("sub/..", 0700)); }
BEHAVIOUR(after_the_last_name) { int fd; SAYS(fd = open("dir/sub/file", O_RDONLY)); SAYS(unlink("dir/sub/file")); SAYS(fchmod(fd, 0600)); SAYS(fchown(fd, geteuid(), getegid())); }
