/* Runs a list of file operations, one letter and up to two names each:
 *   w create and write    p write through a mapping   t truncate      m mkdir
 *   u unlink              r rmdir                     k symlink       h link
 *   R rename              X exchange                  c chmod         o chown
 *   T set times           x set an attribute          C chdir         n mknod
 *   O open read-only into the slot of the second name, whatever it is
 *   W create below a slot M chmod of a slot           U unlink below a slot
 *   A attribute of a slot
 *   V rename out of a slot  L link out of a slot      K mkdir below a slot
 *   N owner of a slot     Z times of a slot         P write a slot through /proc
 *   f enter a slot        d copy a slot             S become another effective user, or root again
 *   F the same for files only                       D be readable or not
 *   ( ) in a child        [ ] in a thread, both waited for
 *   { } in a child with a directory of its own, at the same time as the rest
 * Names are letters. What the kernel refuses is passed over. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *names[] = {
  "a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/../b", "l", "l/a", "l/e", "l/e/a", "dir", "dir/sub", "dir/sub/file", "dlink/sub/n",
  "link", "dangling", "./dir//sub/z", "dir/s", "dir/s/a", "../work/q", "dlink", "d/e/s", "../../work/a", "/proc/self/cwd/a",
};
#define NAMES (int)(sizeof names / sizeof *names)
static int slots[4] = {-1, -1, -1, -1};
static const char *run(const char *p);

static void *in_thread(void *p) { return (void *)run(p); }
/* Of those who run at the same time nobody sees the other's names. */
static const char *own_names[] = {"a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "l", "l/a", "l/b", "./d//e/../b", "d/l", "/proc/self/cwd/d/c"};
static int is_alone = 1, workers;
static const char *name(char c) { return is_alone ? names[(c - 'a') % NAMES] : own_names[(c - 'a') % 14]; }

static void do_one(char op, const char *x, const char *y, int slot) {
  struct timespec t[2] = {{1000, 7}, {2000, 9}};
  int fd, odd = (x[0] ^ y[0] ^ slot) & 1; char *m, p[64];
  switch (op) {
  case 'w': fd = open(x, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0644); write(fd, "more", 4); close(fd); break;
  case 'p': fd = open(x, O_RDWR | O_NONBLOCK); m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m != MAP_FAILED) { struct stat s; if (!fstat(fd, &s) && s.st_size > 0) m[0]++; munmap(m, 4096); } close(fd); break;
  case 't': truncate(x, 3); break;
  case 'm': mkdir(x, 0755); break;
  case 'n': mknod(x, S_IFIFO | 0600, 0); break;
  case 'u': unlink(x); break;
  case 'r': rmdir(x); break;
  case 'k': symlink(y, x); break;
  case 'h': link(x, y); break;
  case 'R': rename(x, y); break;
  case 'X': syscall(SYS_renameat2, AT_FDCWD, x, AT_FDCWD, y, 2); break;
  case 'c': chmod(x, 0711); break;
  case 'o': lchown(x, 5, 6); break;
  case 'T': utimensat(AT_FDCWD, x, t, 0); break;
  case 'x': setxattr(x, "user.r", "1", 1, 0); break;
  case 'C': chdir(x); break;
  case 'O': close(slots[slot]); slots[slot] = open(x, O_RDONLY | O_NONBLOCK | O_CLOEXEC); break;
  case 'W': fd = openat(slots[slot], x, O_WRONLY | O_CREAT | O_NONBLOCK, 0600); write(fd, "slot", 4); close(fd); break;
  case 'M': fchmod(slots[slot], 0700); break;
  case 'U': unlinkat(slots[slot], x, 0); break;
  case 'V': renameat(slots[slot], x, AT_FDCWD, y); break;
  case 'L': linkat(slots[slot], x, AT_FDCWD, y, 0); break;
  case 'K': mkdirat(slots[slot], x, 0755); break;
  case 'N': fchown(slots[slot], 7, 8); break;
  case 'Z': futimens(slots[slot], t); break;
  case 'P': sprintf(p, "/proc/self/fd/%d", slots[slot]); fd = open(p, O_WRONLY | O_NONBLOCK); write(fd, "proc", 4); close(fd); break;
  case 'f': fchdir(slots[slot]); break;
  case 'd': close(slots[(slot + 1) % 4]); slots[(slot + 1) % 4] = dup(slots[slot]); break;
  case 'S': if (seteuid(odd ? 1000 : 0)) seteuid(0); break;
  case 'F': setfsuid(odd ? 1000 : 0); break;
  case 'D': prctl(PR_SET_DUMPABLE, odd, 0, 0, 0); break;
  case 'A': fsetxattr(slots[slot], "user.s", "2", 1, 0); break;
  }
}

static const char *run(const char *p) {
  while (*p && *p != ')' && *p != ']' && *p != '}') {
    if (*p == '(') {
      pid_t c = fork();
      if (!c) { run(p + 1); _exit(0); }
      waitpid(c, 0, 0);
    } else if (*p == '{') {
      char own[16]; sprintf(own, "w%d", workers++);
      pid_t c = is_alone ? fork() : -1;
      if (!c) { is_alone = 0; mkdir(own, 0755); if (!chdir(own)) run(p + 1); _exit(0); }
    } else if (*p == '[') {
      pthread_t t;
      if (!pthread_create(&t, 0, in_thread, (void *)(p + 1))) pthread_join(t, 0);
    }
    if (*p == '(' || *p == '[' || *p == '{') {
      for (int depth = 0;; p++) {
        if (*p == '(' || *p == '[' || *p == '{') depth++;
        if (*p == ')' || *p == ']' || *p == '}') if (!--depth) break;
      }
      p++;
      continue;
    }
    if (p[1] && p[2]) do_one(p[0], name(p[1]), name(p[2]), (p[2] - 'a') % 4);
    p += 3;
  }
  return p;
}

int main(int argc, char **argv) {
  if (argc > 1) run(argv[1]);
  seteuid(0);
  while (wait(0) > 0) {}
  return 0;
}
