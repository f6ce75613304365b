/* Calls that change what names mean: mounts, roots, namespaces. */
#include "guest.h"
#include <linux/fuse.h>

static void write_text(const char *path, const char *text) { int fd; SAYS(fd = open(path, O_WRONLY)); MUST(write(fd, text, strlen(text)) == (ssize_t)strlen(text)); SAYS(close(fd)); }
/* Becomes root of a user namespace. */
static void own_users(int more) {
  char map[64]; unsigned uid = geteuid(), gid = getegid();
  NEEDS(unshare(CLONE_NEWUSER | more));
  write_text("/proc/self/setgroups", "deny"); sprintf(map, "0 %u 1", uid); write_text("/proc/self/uid_map", map);
  sprintf(map, "0 %u 1", gid); write_text("/proc/self/gid_map", map);
}
static void own_mounts(void) {
  if (unshare(CLONE_NEWNS) < 0) own_users(CLONE_NEWNS);
  NEEDS(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0));
}

BEHAVIOUR(mount_in_user_namespace) { own_users(CLONE_NEWNS); NEEDS(mount("none", "dir", "tmpfs", 0, 0)); fill("dir/hidden"); fill("c"); }
BEHAVIOUR(mount_over_names) { own_mounts(); NEEDS(mount("none", "dir", "tmpfs", 0, 0)); fill("dir/hidden"); SAYS(mkdir("dir/sub", 0755)); fill("dir/sub/file"); fill("c"); }
/* One tree under two names: what is written under one shows under the other. */
BEHAVIOUR(bound_elsewhere) { own_mounts(); SAYS(mkdir("other", 0755)); NEEDS(mount("dir", "other", 0, MS_BIND, 0)); fill("other/sub/n"); SAYS(unlink("other/sub/file")); }
BEHAVIOUR(written_below_a_mount) {
  own_mounts(); int d; SAYS(d = open("dir", O_RDONLY)); NEEDS(mount("none", "dir", "tmpfs", 0, 0)); fill("dir/hidden");
  SAYS(d = openat(d, "sub/n", O_WRONLY | O_CREAT, 0644)); put(d);
}
BEHAVIOUR(mounted_and_gone) { own_mounts(); NEEDS(mount("none", "dir", "tmpfs", 0, 0)); fill("dir/hidden"); SAYS(umount("dir")); fill("dir/seen"); }
BEHAVIOUR(file_over_file) { own_mounts(); NEEDS(mount("a", "b", 0, MS_BIND, 0)); put(open("b", O_WRONLY)); }
BEHAVIOUR(new_mount_calls) {
  own_mounts(); int fs = syscall(430, "tmpfs", 0); NEEDS(fs); NEEDS(syscall(431, fs, 6, 0, 0, 0)); int m = syscall(432, fs, 0, 0); NEEDS(m);
  int fd; SAYS(fd = openat(m, "detached", O_WRONLY | O_CREAT, 0644)); put(fd); NEEDS(syscall(429, m, "", AT_FDCWD, "dir", 4)); fill("dir/hidden"); fill("c");
}
BEHAVIOUR(open_tree_clone) {
  own_mounts(); int t = syscall(428, AT_FDCWD, "dir", 1 /* OPEN_TREE_CLONE */); NEEDS(t);
  int fd; SAYS(fd = openat(t, "sub/n", O_WRONLY | O_CREAT, 0644)); put(fd);
}
BEHAVIOUR(pivots_root) {
  own_mounts(); NEEDS(mount("dir", "dir", 0, MS_BIND, 0)); SAYS(mkdir("dir/old", 0755)); NEEDS(syscall(SYS_pivot_root, "dir", "dir/old"));
  SAYS(chdir("/")); fill("/n");
}
BEHAVIOUR(namespace_without_mounts) { NEEDS(unshare(CLONE_NEWNS)); fill("c"); SAYS(rename("dir", "moved")); }
/* Everybody has left the namespace that the command started in. */
BEHAVIOUR(namespace_nobody_stayed_in) { NEEDS(unshare(CLONE_NEWNS)); fill("/proc/self/cwd/c"); char w[4096], p[5000]; MUST(getcwd(w, sizeof w)); sprintf(p, "/proc/self/root/%s/dir", w); SAYS(rename(p, "moved")); SAYS(symlink("moved", "s")); fill("s/n"); }
BEHAVIOUR(users_without_mounts) { own_users(0); fill("c"); SAYS(chmod("c", 0600)); int fd; SAYS(fd = open("dir", O_RDONLY)); SAYS(rename("dir", "moved")); }
BEHAVIOUR(chroot_in_user_namespace) { own_users(0); SAYS(chroot("dir")); fill("/n"); fill("/../sub/m"); fill("dir/sub/up"); }
BEHAVIOUR(joins_a_namespace) {
  int fd; SAYS(fd = open("/proc/self/ns/mnt", O_RDONLY)); NEEDS(unshare(CLONE_NEWNS)); NEEDS(setns(fd, CLONE_NEWNS)); fill("/proc/self/cwd/never"); }
BEHAVIOUR(process_ids_of_its_own) {
  NEEDS(unshare(CLONE_NEWPID)); pid_t p = fork();
  if (!p) { fill("c"); SAYS(rename("dir", "moved")); joined(fork() ?: (fill("d"), _exit(0), 0)); _exit(0); }
  joined(p);
}
BEHAVIOUR(chroot_escape) {
  int fd; SAYS(fd = open(".", O_RDONLY)); SAYS(chroot("dir")); fill("/inside"); fill("../outside_of_it");
  SAYS(chdir("/")); fill("../../stays"); SAYS(fchdir(fd)); fill("c"); fill("dir/../d");
}
BEHAVIOUR(chroot_in_a_child) { pid_t p = fork(); if (!p) { SAYS(chroot("dir")); SAYS(chdir("/")); fill("/n"); SAYS(symlink("/n", "/l")); put(open("/l", O_WRONLY)); SAYS(rename("/sub", "/moved")); _exit(0); } fill("n"); joined(p); fill("m"); }
BEHAVIOUR(chroot_twice) { SAYS(chroot("dir")); SAYS(chdir("/")); SAYS(chroot("sub")); fill("/n"); fill("m"); SAYS(chdir("/")); fill("/../o"); }
BEHAVIOUR(chroot_then_renamed) { int up; SAYS(up = open(".", O_RDONLY)); pid_t p = fork(); if (!p) { SAYS(chroot("dir")); SAYS(chdir("/")); SAYS(renameat(up, "dir", up, "moved")); fill("/n"); _exit(0); } joined(p); }

/* A file system whose server is the guest itself: a root directory with nothing in it. */
static void *serves(void *p) {
  int fd = (int)(long)p; static char in[1 << 18];
  for (;;) {
    if (read(fd, in, sizeof in) < 0) return 0;
    struct fuse_in_header *asked = (void *)in; struct { struct fuse_out_header head; union { struct fuse_init_out init; struct fuse_attr_out attr; } body; } out = {.head = {.unique = asked->unique}};
    if (asked->opcode == FUSE_FORGET) continue;
    if (asked->opcode == FUSE_INIT) { out.head.len = sizeof out.head + sizeof out.body.init; out.body.init.major = 7; out.body.init.minor = 31; out.body.init.max_write = 65536; }
    else if (asked->opcode == FUSE_GETATTR) { out.head.len = sizeof out.head + sizeof out.body.attr; out.body.attr.attr.ino = 1; out.body.attr.attr.mode = S_IFDIR | 0755; out.body.attr.attr.nlink = 2; }
    else { out.head.len = sizeof out.head; out.head.error = -ENOSYS; if (asked->opcode == FUSE_LOOKUP) fill("asked"); }
    if (write(fd, &out, out.head.len) < 0) return 0;
  }
}
BEHAVIOUR(served_by_itself) {
  own_mounts(); int fd; char options[100]; pthread_t t; NEEDS(fd = open("/dev/fuse", O_RDWR)); sprintf(options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fd, geteuid(), getegid());
  NEEDS(mount("guest", "dir", "fuse", MS_NOSUID | MS_NODEV, options)); pthread_create(&t, 0, serves, (void *)(long)fd);
  struct stat s; SAYS(stat("dir", &s)); MUST(open("dir/x", O_WRONLY | O_CREAT, 0644) < 0); SAYS(umount2("dir", MNT_DETACH)); fill("dir/seen"); _exit(0);
}
