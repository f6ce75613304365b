/* Processes and threads: who does it, and when. */
#include "guest.h"

static void *thread_chdir(void *x) { MUST(!unshare(CLONE_FS)); SAYS(chdir("dir")); fill("t"); return x; }
BEHAVIOUR(chdir_in_thread) { pthread_t t; pthread_create(&t, 0, thread_chdir, 0); pthread_join(t, 0); fill("m"); }
static void *thread_exec(void *x) { execl(self, self, "creat_call", (char *)0); _exit(8); return x; }
BEHAVIOUR(exec_from_thread) { pthread_t t; pthread_create(&t, 0, thread_exec, 0); for (;;) pause(); }
BEHAVIOUR(vforked) { pid_t p = vfork(); if (!p) { open("c", O_WRONLY | O_CREAT, 0644); _exit(0); } SAYS(p); int s; waitpid(p, &s, 0); fill("d"); }
BEHAVIOUR(daemon_writes_later) {
  int go[2]; SAYS(pipe(go));
  if (!fork()) { setsid(); signal(SIGTERM, SIG_IGN); signal(SIGHUP, SIG_IGN); if (!fork()) { fill("early"); close(go[0]); MUST(write(go[1], "x", 1) == 1); for (int i = 0;; i++) { char n[32]; sprintf(n, "dir/late%d", i % 100); fill(n); } } _exit(0); }
  char x; MUST(read(go[0], &x, 1) == 1);
}
PART(kill_itself) { fill("c"); kill(getpid(), SIGKILL); }
BEHAVIOUR(killed_children) { for (int i = 0; i < 30; i++) { int go[2]; char x; SAYS(pipe(go)); pid_t p = fork(); if (!p) for (int k = 0;; k++) { fill("c"); unlink("c"); if (k == i % 4) write(go[1], "x", 1); } MUST(read(go[0], &x, 1) == 1); kill(p, SIGKILL); waitpid(p, 0, 0); close(go[0]); close(go[1]); } }
PART(core_dump) { struct rlimit r = {1 << 20, 1 << 20}; setrlimit(RLIMIT_CORE, &r); fill("c"); abort(); }
BEHAVIOUR(stopped_child) {
  int s; pid_t p = fork();
  if (!p) { raise(SIGSTOP); fill("c"); _exit(0); }
  SAYS(waitpid(p, &s, WUNTRACED)); MUST(WIFSTOPPED(s) && WSTOPSIG(s) == SIGSTOP); SAYS(kill(p, SIGCONT)); SAYS(waitpid(p, &s, 0)); MUST(s == 0);
}
static volatile int got; static void on_rt(int n) { got += n; }
BEHAVIOUR(real_time_signal) { signal(SIGRTMIN + 3, on_rt); SAYS(kill(getpid(), SIGRTMIN + 3)); MUST(got == SIGRTMIN + 3); fill("c"); }
static void *thread_last(void *x) { struct timespec t = {0, 20000000}; nanosleep(&t, 0); fill("c"); exit(0); return x; }
BEHAVIOUR(leader_exits_first) { pthread_t t; pthread_create(&t, 0, thread_last, 0); pthread_exit(0); }
BEHAVIOUR(spawned) { char *argv[] = {(char *)self, "creat_new", 0}; pid_t p; MUST(!posix_spawn(&p, self, 0, 0, argv, 0)); joined(p); }
BEHAVIOUR(spawned_with_actions) { posix_spawn_file_actions_t f; posix_spawn_file_actions_init(&f); posix_spawn_file_actions_addopen(&f, 1, "said", O_WRONLY | O_CREAT, 0644); char *argv[] = {(char *)self, "says_something", 0}; pid_t p; MUST(!posix_spawn(&p, self, &f, 0, argv, 0)); joined(p); }
PART(says_something) { MUST(write(1, "something", 9) == 9); }
BEHAVIOUR(vforked_and_executed) { pid_t p = vfork(); if (!p) { execl(self, self, "creat_new", (char *)0); _exit(8); } joined(p); fill("c"); }
static int makes_and_ends(void *x) { return mkdir("c", 0755) | chdir("dir"); }
BEHAVIOUR(memory_shared) { static char stack[65536] __attribute__((aligned(16))); joined(clone(makes_and_ends, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, 0)); fill("d"); }
BEHAVIOUR(sibling_of_its_parent) { int go[2]; char x; SAYS(pipe(go)); pid_t p = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0); NEEDS(p); if (!p) { fill("c"); MUST(write(go[1], "x", 1) == 1); _exit(0); } MUST(read(go[0], &x, 1) == 1); MUST(waitpid(p, 0, 0) < 0 && errno == ECHILD); }
BEHAVIOUR(deep_descent) { for (int i = 0; i < 40; i++) { pid_t p = fork(); SAYS(p); if (p) { joined(p); if (i) _exit(0); return; } char n[16]; sprintf(n, "g%d", i); fill(n); } _exit(0); }
static void *writes_many(void *x) { for (int i = 0; i < 10; i++) { char n[32]; sprintf(n, "dir/t%ld.%d", (long)x, i); fill(n); if (i % 3 == 0) SAYS(unlink(n)); } return x; }
BEHAVIOUR(many_threads) { pthread_t t[24]; for (long i = 0; i < 24; i++) MUST(!pthread_create(t + i, 0, writes_many, (void *)i)); for (int i = 0; i < 24; i++) pthread_join(t[i], 0); }
BEHAVIOUR(many_processes) { for (int i = 0; i < 40; i++) { pid_t p = fork(); if (!p) { char n[16]; sprintf(n, "p%d", i); fill(n); _exit(0); } SAYS(p); } while (wait(0) > 0) {} }
BEHAVIOUR(executed_by_descriptor) { int fd; char *argv[] = {(char *)self, "creat_new", 0}; SAYS(fd = open(self, O_PATH)); fexecve(fd, argv, environ); MUST(0); }
BEHAVIOUR(executed_from_memory) {
  int fd, from; char b[65536]; ssize_t n; NEEDS(fd = memfd_create("program", MFD_CLOEXEC)); SAYS(from = open("/proc/self/exe", O_RDONLY)); while ((n = read(from, b, sizeof b)) > 0) MUST(write(fd, b, n) == n);
  char *argv[] = {(char *)self, "creat_new", 0}; syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH); MUST(0); }
BEHAVIOUR(executed_by_its_first_line) { char t[5000]; int n = sprintf(t, "#!%s creat_new\n", self), fd; SAYS(fd = open("script", O_WRONLY | O_CREAT, 0755)); MUST(write(fd, t, n) == n); SAYS(close(fd)); execl("./script", "./script", (char *)0); MUST(0); }
BEHAVIOUR(executed_again_and_again) { char *n = getenv("ROUND"), next[8], f[16]; int i = n ? atoi(n) : 0; sprintf(f, "round%d", i); fill(f); if (i == 12) return; sprintf(next, "%d", i + 1); setenv("ROUND", next, 1); become(self, "executed_again_and_again"); }
BEHAVIOUR(orphan_that_writes) { int done[2]; char x; SAYS(pipe(done)); if (!fork()) { if (!fork()) { while (getppid() == 0) {} fill("c"); SAYS(rename("dir", "moved")); MUST(write(done[1], "x", 1) == 1); _exit(0); } _exit(0); } wait(0); MUST(read(done[0], &x, 1) == 1); }
BEHAVIOUR(own_reaper) { SAYS(prctl(PR_SET_CHILD_SUBREAPER, 1)); pid_t p = fork(); if (!p) { if (!fork()) { setsid(); fill("c"); _exit(0); } _exit(0); } joined(p); while (wait(0) > 0) {} fill("d"); }
static void writes_on_signal(int n) { fill(n == SIGALRM ? "alarm" : "other"); }
BEHAVIOUR(written_by_a_handler) { signal(SIGUSR1, writes_on_signal); SAYS(raise(SIGUSR1)); signal(SIGALRM, writes_on_signal); sigset_t none; sigemptyset(&none); alarm(1); struct itimerval v = {{0}, {0, 1000}}; SAYS(setitimer(ITIMER_REAL, &v, 0)); pause(); }
static volatile int ticks; static void counts(int n) { ticks += n != 0; }
BEHAVIOUR(interrupted_all_the_time) { struct sigaction s = {.sa_handler = counts, .sa_flags = SA_RESTART}; sigaction(SIGALRM, &s, 0); struct itimerval v = {{0, 300}, {0, 300}}, off = {{0}}; SAYS(setitimer(ITIMER_REAL, &v, 0)); for (int i = 0; i < 200; i++) { char n[32]; sprintf(n, "dir/i%d", i % 50); fill(n); } SAYS(setitimer(ITIMER_REAL, &off, 0)); }
static void *writes_forever(void *x) { for (int i = 0;; i++) { char n[32]; sprintf(n, "dir/f%ld.%d", (long)x, i % 5); fill(n); } }
BEHAVIOUR(ended_in_the_middle) { pthread_t t; for (long i = 0; i < 4; i++) pthread_create(&t, 0, writes_forever, (void *)i); for (int i = 0; i < 20; i++) { char n[16]; sprintf(n, "m%d", i); fill(n); } _exit(0); }
BEHAVIOUR(executed_over_threads) { pthread_t t; for (long i = 0; i < 4; i++) pthread_create(&t, 0, writes_forever, (void *)i); for (int i = 0; i < 10; i++) { char n[16]; sprintf(n, "m%d", i); fill(n); } become(self, "creat_new"); }
BEHAVIOUR(files_of_its_own_in_a_thread) { pthread_t t; MUST(!pthread_create(&t, 0, thread_chdir, 0)); pthread_join(t, 0); int d; SAYS(d = open("dir", O_RDONLY)); pid_t p = fork(); if (!p) { SAYS(close(d)); SAYS(dup2(open(".", O_RDONLY), d)); SAYS(mkdirat(d, "child", 0755)); _exit(0); } joined(p); SAYS(mkdirat(d, "parent", 0755)); }
BEHAVIOUR(killed_by_pidfd) {
  int go[2]; char x; SAYS(pipe(go)); pid_t p = fork();
  if (!p) for (int i = 0;; i++) { fill("c"); SAYS(rename("c", "d")); if (i == 3) MUST(write(go[1], "x", 1) == 1); }
  MUST(read(go[0], &x, 1) == 1); int fd = syscall(434, p, 0); if (fd < 0 || syscall(424, fd, SIGKILL, 0, 0) < 0) kill(p, SIGKILL); waitpid(p, 0, 0);
}
BEHAVIOUR(stopped_by_a_terminal_signal) { int s; pid_t p = fork(); if (!p) { fill("c"); kill(getpid(), SIGSTOP); SAYS(unlink("c")); fill("d"); _exit(0); } SAYS(waitpid(p, &s, WUNTRACED)); MUST(WIFSTOPPED(s)); SAYS(kill(p, SIGCONT)); joined(p); }
BEHAVIOUR(priority_and_limits) { struct rlimit r = {0}; nice(5); SAYS(getrlimit(RLIMIT_NOFILE, &r)); r.rlim_cur = 20; SAYS(setrlimit(RLIMIT_NOFILE, &r)); r.rlim_cur = r.rlim_max = 4; signal(SIGXFSZ, SIG_IGN); SAYS(setrlimit(RLIMIT_FSIZE, &r)); int fd; SAYS(fd = open("c", O_WRONLY | O_CREAT, 0644)); MUST(write(fd, "changed", 7) == 4); }
/* What it may run on, as it is told in two ways. */
static void allowed(char *line) { char b[4096], *p; int fd; ssize_t n; SAYS(fd = open("/proc/self/status", O_RDONLY)); SAYS(n = read(fd, b, sizeof b - 1)); close(fd); b[n] = 0; MUST(p = strstr(b, "Cpus_allowed_list:")); MUST(sscanf(p, "%*s %99s", line) == 1); }
static char all[100]; static cpu_set_t set;
static void same(void) { cpu_set_t now; CPU_ZERO(&now); SAYS(sched_getaffinity(0, sizeof now, &now)); MUST(CPU_EQUAL(&now, &set)); char line[100]; allowed(line); MUST(!strcmp(line, all)); }
static void often(void) { int d; SAYS(d = open("dir", O_RDONLY)); for (int i = 0; i < 400; i++) SAYS(fchmod(d, 0700 + i % 2)); close(d); }
static void *asks(void *x) { char line[100]; allowed(line); MUST(!strcmp(line, all)); same(); return x; }
static void *executes(void *x) { often(); setenv("ALL", all, 1); execl(self, self, "asks_before_anything_else", (char *)0); _exit(8); return x; }
PART(asks_before_anything_else) { char line[100]; allowed(line); MUST(!strcmp(line, getenv("ALL"))); fill("c"); }
BEHAVIOUR(free_to_run_wherever_it_could) {
  pthread_t t; char line[100]; CPU_ZERO(&set); SAYS(sched_getaffinity(0, sizeof set, &set)); allowed(all);
  for (int i = 0; i < 3; i++) {
    often(); same();
    often(); pid_t p = fork(); if (!p) { allowed(line); MUST(!strcmp(line, all)); same(); often(); _exit(0); } joined(p); same();
    often(); MUST(!pthread_create(&t, 0, asks, 0)); pthread_join(t, 0);
    often(); p = vfork(); if (!p) { setenv("ALL", all, 1); execl(self, self, "asks_before_anything_else", (char *)0); _exit(8); } joined(p);
    p = fork(); if (!p) { MUST(!pthread_create(&t, 0, executes, 0)); for (;;) pause(); } joined(p);
    often(); if (!geteuid()) { p = fork(); if (!p) { often(); if (setresuid(7, 7, 7)) _exit(0); allowed(line); MUST(!strcmp(line, all)); same(); _exit(0); } joined(p); }
  }
  /* What it decides itself stays so. */
  for (int c = 0; c < CPU_SETSIZE; c++) if (CPU_ISSET(c, &set)) { CPU_ZERO(&set); CPU_SET(c, &set); break; }
  often(); SAYS(sched_setaffinity(0, sizeof set, &set)); allowed(all); same(); often(); same();
  pid_t p = fork(); if (!p) { allowed(line); MUST(!strcmp(line, all)); often(); same(); _exit(0); } joined(p);
  often(); setenv("ALL", all, 1); become(self, "asks_before_anything_else");
}
