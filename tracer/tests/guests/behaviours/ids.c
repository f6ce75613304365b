/* Processes that change their ids, or cannot be read. */
#include "guest.h"

BEHAVIOUR(other_user) { SAYS(chmod(".", 0777)); SAYS(setgid(1000)); SAYS(setuid(1000)); fill("c"); fill("dir/../d"); SAYS(chdir("/proc/self/cwd")); fill("e"); SAYS(chmod("e", 0600)); }
BEHAVIOUR(effective_user) { char cwd[4096], p[5000]; MUST(getcwd(cwd, sizeof cwd)); SAYS(chmod(".", 0777)); SAYS(setegid(1000)); SAYS(seteuid(1000)); sprintf(p, "%s/c", cwd); fill(p); SAYS(seteuid(0)); sprintf(p, "%s/d", cwd); fill(p); SAYS(seteuid(1000)); sprintf(p, "%s/e", cwd); fill(p); }
BEHAVIOUR(user_of_program) { SAYS(chmod(".", 0777)); SAYS(setgid(1000)); SAYS(setuid(1000)); execl(self, self, "creat_new", (char *)0); _exit(8); }
BEHAVIOUR(creat_new) { put(creat("new1", 0644)); SAYS(mkdir("new2", 0755)); SAYS(rename("new1", "new2/x")); }
BEHAVIOUR(not_dumpable) { SAYS(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); fill("c"); int fd; SAYS(fd = open("a", O_RDONLY)); SAYS(fchmod(fd, 0600)); }
static void *thread_wait(void *x) { for (;;) pause(); return x; }
BEHAVIOUR(threads_setuid) { pthread_t t; for (int i = 0; i < 4; i++) pthread_create(&t, 0, thread_wait, 0); SAYS(chmod(".", 0777)); SAYS(setuid(1000)); fill("c"); }
static void drop(unsigned id) { SAYS(syscall(SYS_setgroups, 0, 0)); SAYS(setresgid(id, id, id)); SAYS(setresuid(id, id, id)); }
BEHAVIOUR(as_setpriv_does) { open_to_all(); for (int i = 0; i < 41; i++) prctl(PR_CAPBSET_DROP, i, 0, 0, 0); SAYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); drop(1000); become(self, "creat_new"); }
BEHAVIOUR(as_gosu_does) { open_to_all(); drop(1001); fill("c"); become(self, "creat_new"); }
/* As apt does for each file that it fetches. */
BEHAVIOUR(back_and_forth) {
  open_to_all(); for (int i = 0; i < 25; i++) { char n[16]; SAYS(setresgid(-1, 42, -1)); SAYS(setresuid(-1, 42, -1)); sprintf(n, "u%d", i); fill(n); SAYS(setresuid(-1, 0, -1)); SAYS(setresgid(-1, 0, -1)); sprintf(n, "r%d", i); fill(n); SAYS(fchownat(AT_FDCWD, n, 42, 42, 0)); } }
BEHAVIOUR(child_that_stays_down) { open_to_all(); for (int i = 0; i < 5; i++) { pid_t p = fork(); if (!p) { drop(42); char n[16]; sprintf(n, "u%d", i); fill(n); SAYS(chmod(n, 0600)); SAYS(rename(n, n + 1)); _exit(0); } joined(p); } fill("c"); }
BEHAVIOUR(file_system_ids) { open_to_all(); setfsgid(1000); setfsuid(1000); fill("c"); char w[4096], p[5000]; MUST(getcwd(w, sizeof w)); sprintf(p, "%s/d", w); fill(p); setfsuid(0); setfsgid(0); fill("e"); }
BEHAVIOUR(real_id_only) { open_to_all(); SAYS(setreuid(1000, -1)); fill("c"); SAYS(chmod("c", 0600)); }
BEHAVIOUR(saved_id_only) { open_to_all(); SAYS(setresuid(1000, 1000, 0)); fill("c"); SAYS(seteuid(0)); fill("d"); }
BEHAVIOUR(group_only) { SAYS(setresgid(1000, 1000, 1000)); fill("c"); int fd; SAYS(fd = open("a", O_RDONLY)); SAYS(fchmod(fd, 0600)); }
BEHAVIOUR(capabilities_kept) {
  unsigned head[2] = {0x20080522, 0}, sets[6] = {0}; open_to_all(); SAYS(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)); drop(1000); sets[0] = sets[1] = 1 << 1 | 1 << 3; SAYS(syscall(SYS_capset, head, sets)); fill("b"); SAYS(chmod("b", 0600)); SAYS(unlink("dir/sub/file")); }
BEHAVIOUR(capabilities_dropped) { unsigned head[2] = {0x20080522, 0}, sets[6] = {0}; SAYS(syscall(SYS_capset, head, sets)); fill("c"); SAYS(rename("dir", "moved")); fill("moved/n"); }
static void *other_ids(void *x) { SAYS(syscall(SYS_setresgid, 1000, 1000, 1000)); SAYS(syscall(SYS_setresuid, 1000, 1000, 1000)); for (int i = 0; i < 20; i++) { char n[16]; sprintf(n, "t%d", i); fill(n); } return x; }
BEHAVIOUR(ids_of_one_thread) { open_to_all(); pthread_t t; pthread_create(&t, 0, other_ids, 0); for (int i = 0; i < 20; i++) { char n[16]; sprintf(n, "m%d", i); fill(n); } pthread_join(t, 0); }
BEHAVIOUR(readable_now_and_then) { for (int i = 0; i < 12; i++) { char n[16]; SAYS(prctl(PR_SET_DUMPABLE, i % 2, 0, 0, 0)); sprintf(n, "n%d", i); fill(n); int fd; SAYS(fd = open(n, O_RDONLY)); SAYS(fchmod(fd, 0600)); } SAYS(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); joined(fork() ?: (fill("child"), _exit(0), 0)); become(self, "creat_new"); }
BEHAVIOUR(unreadable_chroot) { open_to_all(); SAYS(chroot(".")); drop(1000); SAYS(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); fill("/c"); fill("/../d"); SAYS(chdir("/")); fill("e"); }
/* A program that may be run, but not read, leaves an unreadable process. */
BEHAVIOUR(unreadable_program) { open_to_all(); copy_self("program", 0711); drop(1000); become("./program", "creat_new"); }
BEHAVIOUR(unreadable_threads) { open_to_all(); SAYS(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); pthread_t t; pthread_create(&t, 0, other_ids, 0); for (int i = 0; i < 20; i++) { char n[16]; sprintf(n, "m%d", i); fill(n); } pthread_join(t, 0); }
BEHAVIOUR(unreadable_name_in_a_closed_directory) { open_to_all(); SAYS(mkdir("closed", 0700)); SAYS(chown("closed", 1000, 1000)); SAYS(chown("dir", 1000, 1000)); drop(1000); SAYS(chdir("closed")); fill("c"); fill("../closed/d"); SAYS(chmod(".", 0)); SAYS(chmod("../dir", 0300)); fill("../dir/n"); }
static int gains(unsigned mode, const char *attribute) {
  open_to_all(); copy_self("program", mode);
  if (attribute) { unsigned cap[5] = {0x02000001, 1 << 1, 0, 0, 0}; SAYS(setxattr("program", attribute, cap, sizeof cap, 0)); }
  pid_t p = fork(); if (!p) { drop(1000); become("./program", attribute ? "writes_what_is_not_its_own" : "writes_as_root"); } joined(p); return 0;
}
PART(writes_as_root) { if (geteuid()) _exit(PREVENTED); fill("dir/sub/file"); SAYS(chmod("b", 0600)); }
PART(writes_what_is_not_its_own) { int fd = open("dir/sub/file", O_WRONLY); if (fd < 0) _exit(PREVENTED); put(fd); }
BEHAVIOUR(set_id_program) { gains(04755, 0); }
BEHAVIOUR(program_with_a_capability) { gains(0755, "security.capability"); }
BEHAVIOUR(user_namespace_of_a_child) { pid_t p = fork(); if (!p) { if (unshare(CLONE_NEWUSER) < 0) _exit(PREVENTED); int fd; SAYS(fd = open("dir", O_RDONLY)); close(open("c", O_WRONLY | O_CREAT, 0644)); unlink("b"); _exit(0); } joined(p); fill("d"); }
