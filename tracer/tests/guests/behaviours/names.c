/* Making, moving and removing names. */
#include "guest.h"

#define EXCHANGE(one, other) NEEDS(syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2))
BEHAVIOUR(rename_file) { SAYS(rename("a", "dir/z")); SAYS(rename("b", "c")); }
BEHAVIOUR(rename_at2) { SAYS(syscall(SYS_renameat2, open("dir", O_RDONLY), "sub/file", AT_FDCWD, "c", 1)); }
BEHAVIOUR(exchange) { SAYS(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "dir", 2)); }
BEHAVIOUR(rename_dir) { SAYS(rename("dir", "moved")); fill("moved/sub/file"); }
BEHAVIOUR(link_calls) { SAYS(link("a", "c")); SAYS(linkat(AT_FDCWD, "link", AT_FDCWD, "d", AT_SYMLINK_FOLLOW)); SAYS(linkat(AT_FDCWD, "link", AT_FDCWD, "e", 0)); }
BEHAVIOUR(symlink_calls) { SAYS(symlink("x", "c")); SAYS(symlinkat("y", open("dir", O_RDONLY), "s")); }
BEHAVIOUR(fifo) { SAYS(mkfifo("c", 0644)); SAYS(mknodat(open("dir", O_RDONLY), "n", S_IFREG | 0600, 0)); }
BEHAVIOUR(removals) { SAYS(unlink("a")); SAYS(unlink("dir/sub/file")); SAYS(rmdir("dir/sub")); SAYS(unlinkat(AT_FDCWD, "dir", AT_REMOVEDIR)); }
BEHAVIOUR(bind_socket) { struct sockaddr_un u = {AF_UNIX, "dir/sock"}; SAYS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, sizeof u)); SAYS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, 2)); }
BEHAVIOUR(dirfd_after_rename) { int d; SAYS(d = open("dir/sub", O_RDONLY)); SAYS(rename("dir", "moved")); put(openat(d, "n", O_WRONLY | O_CREAT, 0644)); SAYS(unlinkat(d, "../sub/file", 0)); }
BEHAVIOUR(link_parent) { fill("dlink/sub/n"); SAYS(unlink("dlink/sub/file")); SAYS(mkdir("dlink/new/", 0755)); }
BEHAVIOUR(link_final) { fill("link"); SAYS(symlink("../link", "dir/chain")); put(open("dir/chain", O_WRONLY)); }
BEHAVIOUR(link_before_dot) { SAYS(lchown("dlink/.", 5, 6)); SAYS(utimensat(AT_FDCWD, "dlink/./.", 0, AT_SYMLINK_NOFOLLOW)); }
BEHAVIOUR(link_dangling) { fill("dangling"); }
BEHAVIOUR(link_swapped) { for (int i = 0; i < 6; i++) { unlink("s"); SAYS(symlink(i % 2 ? "dir" : "dir/sub", "s")); char p[16]; sprintf(p, "s/%d", i); fill(p); } }
BEHAVIOUR(dir_becomes_link) {
  SAYS(mkdir("d", 0755)); fill("d/x"); SAYS(unlink("d/x")); SAYS(rmdir("d")); SAYS(symlink("dir", "d")); fill("d/y");
  SAYS(mkdir("e", 0755)); fill("e/x"); SAYS(rename("e", "f")); SAYS(symlink("dir/sub", "g")); SAYS(rename("g", "e")); fill("e/y");
}
BEHAVIOUR(dir_made_again) {
  SAYS(mkdir("d", 0755)); fill("d/x"); mkdir("d", 0755); fill("d/y"); SAYS(unlink("d/x")); SAYS(unlink("d/y")); SAYS(rmdir("d"));
  SAYS(mkdir("d", 0755)); fill("d/z"); SAYS(rename("d", "e")); SAYS(symlink("dir", "d")); mkdir("d", 0755); fill("d/w");
}
BEHAVIOUR(removed_cwd) { SAYS(mkdir("gone", 0755)); SAYS(chdir("gone")); SAYS(rmdir("../gone")); fill("../c"); }
BEHAVIOUR(hard_link_write) { SAYS(mkdir("new", 0755)); SAYS(link("a", "new/l")); fill("new/l"); SAYS(unlink("new/l")); }
BEHAVIOUR(name_that_came_again) { int fd; SAYS(link("a", "t")); SAYS(fd = open("t", O_WRONLY)); SAYS(unlink("t")); fill("t"); put(fd); }
BEHAVIOUR(renamed_over_an_open_link) { int fd; fill("n"); SAYS(link("a", "t")); SAYS(fd = open("t", O_WRONLY)); SAYS(rename("n", "t")); SAYS(fchmod(fd, 0600)); SAYS(close(fd)); }
BEHAVIOUR(exchanged_there_and_back) { SAYS(link("a", "l")); EXCHANGE("b", "l"); put(open("b", O_WRONLY)); EXCHANGE("b", "l"); SAYS(unlink("l")); }
BEHAVIOUR(exchanged_and_removed) { SAYS(link("a", "l")); EXCHANGE("b", "l"); put(open("b", O_WRONLY)); SAYS(unlink("b")); }
BEHAVIOUR(changed_and_exchanged) { SAYS(link("a", "l")); put(open("l", O_WRONLY)); EXCHANGE("l", "b"); SAYS(unlink("b")); }
BEHAVIOUR(unlinked_then_fchmod) { int fd; SAYS(fd = open("a", O_RDWR)); SAYS(unlink("a")); SAYS(fchmod(fd, 0600)); SAYS(fd = open("b (deleted)", O_RDWR | O_CREAT, 0644)); SAYS(fchmod(fd, 0600)); }
BEHAVIOUR(lost_name) { int fd; SAYS(link("b", "other")); SAYS(fd = open("b", O_RDONLY)); SAYS(unlink("b")); SAYS(fchmod(fd, 0600)); }
BEHAVIOUR(exchanged_trees) { SAYS(mkdir("other", 0755)); fill("other/x"); NEEDS(syscall(SYS_renameat2, AT_FDCWD, "other", AT_FDCWD, "dir", 2)); fill("dir/y"); SAYS(unlink("other/sub/file")); }
BEHAVIOUR(exchanged_with_a_link) { NEEDS(syscall(SYS_renameat2, AT_FDCWD, "dlink", AT_FDCWD, "dir", 2)); fill("dlink/sub/n"); }
BEHAVIOUR(whiteout_left_behind) { NEEDS(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "c", 4)); }
BEHAVIOUR(whiteout_of_a_tree) { NEEDS(syscall(SYS_renameat2, AT_FDCWD, "dir", AT_FDCWD, "moved", 4)); fill("moved/sub/n"); }
BEHAVIOUR(moved_over_empty) { SAYS(mkdir("empty", 0755)); SAYS(rename("dir", "empty")); fill("empty/sub/n"); }
BEHAVIOUR(moved_with_slashes) { SAYS(rename("dir/", "moved/")); SAYS(rename("./moved//sub", "moved/../up")); }
BEHAVIOUR(moved_twice) { SAYS(rename("dir", "one")); SAYS(mkdir("deep", 0755)); SAYS(rename("one", "deep/two")); SAYS(rename("deep", "last")); fill("last/two/sub/file"); }
BEHAVIOUR(moved_and_back) { SAYS(rename("dir", "moved")); fill("moved/sub/file"); SAYS(rename("moved", "dir")); }
BEHAVIOUR(moved_under_its_feet) { SAYS(chdir("dir/sub")); SAYS(rename("../../dir", "../../moved")); fill("n"); fill("../m"); SAYS(unlink("file")); }
BEHAVIOUR(moved_while_written) { int fd; SAYS(fd = open("dir/sub/file", O_RDWR)); SAYS(rename("dir", "moved")); SAYS(fchmod(fd, 0600)); put(fd); }
BEHAVIOUR(moved_into_new) { SAYS(mkdir("new", 0755)); SAYS(rename("dir", "new/dir")); SAYS(rename("a", "new/a")); SAYS(rename("new/dir/sub/file", "a")); }
BEHAVIOUR(moved_onto_itself) { SAYS(link("a", "c")); SAYS(rename("a", "c")); SAYS(rename("b", "b")); }
BEHAVIOUR(refused_moves) { MUST(rename("dir", "dir/sub/below") < 0); MUST(rename("a", "dir") < 0); MUST(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", 1) < 0); SAYS(rename("b", "c")); }
BEHAVIOUR(one_of_three_names) { SAYS(link("a", "dir/n1")); SAYS(link("a", "dir/sub/n2")); fill("dir/n1"); SAYS(chmod("dir/sub/n2", 0600)); }
BEHAVIOUR(linked_by_descriptor) { int fd; char p[64]; SAYS(fd = open("a", O_RDONLY)); sprintf(p, "/proc/self/fd/%d", fd); SAYS(linkat(AT_FDCWD, p, AT_FDCWD, "dir/n", AT_SYMLINK_FOLLOW)); if (linkat(fd, "", AT_FDCWD, "dir/m", AT_EMPTY_PATH) < 0) MUST(errno == ENOENT || errno == EPERM); }
BEHAVIOUR(linked_then_first_removed) { SAYS(link("a", "dir/n")); SAYS(unlink("a")); fill("dir/n"); }
BEHAVIOUR(linked_into_new_and_back) { SAYS(mkdir("new", 0755)); SAYS(link("dir/sub/file", "new/l")); SAYS(chmod("new/l", 0600)); SAYS(rename("new/l", "back")); SAYS(rmdir("new")); }
BEHAVIOUR(linked_into_new_written_through_descriptor) { int fd; SAYS(mkdir("new", 0755)); SAYS(link("a", "new/l")); SAYS(fd = open("new/l", O_WRONLY | O_TRUNC)); SAYS(unlink("new/l")); SAYS(rmdir("new")); put(fd); }
BEHAVIOUR(removed_tree) { SAYS(unlink("dir/sub/file")); SAYS(rmdir("dir/sub")); SAYS(rmdir("dir")); SAYS(unlink("dlink")); SAYS(unlink("dangling")); }
BEHAVIOUR(file_becomes_directory) { SAYS(unlink("a")); SAYS(mkdir("a", 0755)); fill("a/x"); SAYS(unlink("dir/sub/file")); SAYS(mkdir("dir/sub/file", 0755)); fill("dir/sub/file/y"); fill("link/z"); }
BEHAVIOUR(directory_becomes_file) { SAYS(unlink("dir/sub/file")); SAYS(rmdir("dir/sub")); fill("dir/sub"); }
BEHAVIOUR(long_names) {
  char n[300]; memset(n, 'n', sizeof n); n[255] = 0; fill(n); n[255] = 'n'; n[256] = 0; MUST(mkdir(n, 0755) < 0 && errno == ENAMETOOLONG); n[255] = 0; n[0] = 'd'; SAYS(mkdir(n, 0755)); SAYS(chdir(n)); fill(n); }
BEHAVIOUR(odd_names) {
  static const char *names[] = {" ", "-rf", "new\nline", "tab\t", "back\\slash", "\xff\xfe", "\xc3\xa4", "quote\"'", "x (deleted)", "...", "..x", "*", "\x01", "\x7f", "#", "a:b", "%s"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) { fill(names[i]); int fd; SAYS(fd = open(names[i], O_RDONLY)); SAYS(fchmod(fd, 0600)); }
  SAYS(mkdir("d (deleted)", 0755)); SAYS(chdir("d (deleted)")); fill("x"); SAYS(rename("x", "y (deleted)"));
}
/* Further down than any name can say. */
BEHAVIOUR(deep_down) {
  char n[101]; memset(n, 'd', 100); n[100] = 0;
  for (int i = 0; i < 45; i++) { SAYS(mkdir(n, 0755)); SAYS(chdir(n)); }
  fill("bottom"); int fd; SAYS(fd = open("bottom", O_RDONLY)); SAYS(fchmod(fd, 0600));
}
BEHAVIOUR(longest_name) { char p[PATH_MAX]; for (int i = 0; i + 1 < PATH_MAX - 2; i += 2) memcpy(p + i, "./", 2); memcpy(p + PATH_MAX - 2, "c", 2); fill(p); p[PATH_MAX - 1] = 'x'; }
/* Such names are those of a network namespace, which guests that run at once may share. */
BEHAVIOUR(abstract_socket) {
  struct stat here; SAYS(stat(".", &here)); struct sockaddr_un u = {AF_UNIX}; sprintf(u.sun_path + 1, "%lx.%lx", (long)here.st_dev, (long)here.st_ino);
  SAYS(bind(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&u, sizeof u)); fill("c");
}
BEHAVIOUR(socket_by_odd_names) {
  int d, s; char p[64]; SAYS(d = open("dir", O_RDONLY)); struct sockaddr_un u = {AF_UNIX}; sprintf(u.sun_path, "/proc/self/fd/%d/sock", d); SAYS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, sizeof u));
  memset(u.sun_path, 's', sizeof u.sun_path); SAYS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, sizeof u)); /* no zero at the end */
  SAYS(chdir("dlink")); strcpy(u.sun_path, "../t"); SAYS(bind(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&u, sizeof u)); SAYS(chmod("../t", 0700)); SAYS(unlink("../dir/sock"));
}
BEHAVIOUR(name_of_a_whiteout) { fill(".wh.a"); }
