/* The list of behaviours, and what they share. */
#include "guest.h"

const char *self;
static struct { const char *name, *file; int listed; void (*run)(void); } all[400];
static int count;

void enter(const char *name, const char *file, int listed, void (*run)(void)) {
  if (count == 400) _exit(9);
  all[count].name = name; all[count].file = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
  all[count].listed = listed; all[count++].run = run;
}

void ended(const char *file, int line, const char *what, int why) {
  dprintf(2, "%s:%d: %s: %s\n", file, line, what, strerror(why));
  _exit(why == EPERM || why == EACCES || why == ENOSYS || why == EOPNOTSUPP ? PREVENTED : 9);
}

void put(int fd) { MUST(write(fd, "changed", 7) == 7); SAYS(close(fd)); }
void fill(const char *path) { int fd; SAYS(fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644)); put(fd); }

void joined(pid_t child) {
  int status; SAYS(child); MUST(waitpid(child, &status, __WALL) == child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == PREVENTED) _exit(PREVENTED);
  MUST(status == 0);
}

void become(const char *program, const char *behaviour) { execl(program, program, behaviour, (char *)0); ended(__FILE__, __LINE__, program, errno); }

void copy_self(const char *path, mode_t mode) {
  char block[65536]; ssize_t n; int from, to;
  SAYS(from = open("/proc/self/exe", O_RDONLY)); SAYS(to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755));
  while ((n = read(from, block, sizeof block)) > 0) MUST(write(to, block, n) == n);
  SAYS(n); SAYS(fchmod(to, mode)); SAYS(close(to)); SAYS(close(from));
}

void open_to_all(void) { SAYS(chmod(".", 0777)); SAYS(chmod("a", 0666)); }

int main(int argc, char **argv) {
  self = argv[0];
  int listing = argc > 1 && !strcmp(argv[1], "--list");
  for (int i = 0; i < count; i++) {
    if (listing && all[i].listed) printf("%s %s\n", all[i].file, all[i].name);
    if (!listing && argc > 1 && !strcmp(argv[1], all[i].name)) { all[i].run(); return 0; }
  }
  return listing ? 0 : 7;
}
