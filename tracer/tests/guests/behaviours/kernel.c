/* Calls that would go round a tracer. What a tracer refuses, the guest is prevented from. */
#include "guest.h"
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <poll.h>

BEHAVIOUR(x32_call) { NEEDS(syscall(0x40000000 | SYS_mkdir, "x32", 0755)); }
BEHAVIOUR(future_call) { MUST(syscall(600, "a") < 0 && errno == ENOSYS); fill("c"); }

static struct sock_fprog filter_of(int nr, unsigned answer) {
  static struct sock_filter c[4];
  struct sock_filter of[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, answer), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  memcpy(c, of, sizeof of);
  return (struct sock_fprog){4, c};
}
static int filtering(unsigned flags, int nr, unsigned answer) {
  struct sock_fprog p = filter_of(nr, answer);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}
static volatile int listener;
static void *lets_pass(void *x) {
  struct seccomp_notif asked = {0};
  while (listener <= 0) sched_yield();
  SAYS(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked));
  struct seccomp_notif_resp answer = {.id = asked.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
  SAYS(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer));
  return x;
}
BEHAVIOUR(listener_lets_pass) {
  pthread_t t; pthread_create(&t, 0, lets_pass, 0);
  int fd = filtering(SECCOMP_FILTER_FLAG_NEW_LISTENER, SYS_unlink, SECCOMP_RET_USER_NOTIF);
  NEEDS(fd); listener = fd;
  SAYS(unlink("a")); pthread_join(t, 0);
}
BEHAVIOUR(own_filter) { SAYS(filtering(0, SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV)); MUST(mkdir("no", 0755) < 0 && errno == EXDEV); fill("c"); }
BEHAVIOUR(own_filters_nested) {
  for (int i = 0; i < 5; i++) SAYS(filtering(0, SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV));
  joined(fork() ?: (filtering(0, SYS_symlink, SECCOMP_RET_ERRNO | 1), fill("c"), unlink("a"), _exit(0), 0)); fill("d");
}
BEHAVIOUR(own_filter_by_prctl) {
  struct sock_fprog p = filter_of(SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV);
  SAYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); SAYS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p)); fill("c");
}
/* Alone, the call is answered with ENOSYS; with another tracer it happens. */
BEHAVIOUR(own_trace_filter) { SAYS(filtering(0, SYS_unlink, SECCOMP_RET_TRACE | 7)); unlink("a"); fill("c"); }
BEHAVIOUR(filter_of_unreadable) {
  SAYS(filtering(0, SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV)); SAYS(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); fill("c");
}
BEHAVIOUR(strict_mode) { int fd; SAYS(fd = open("a", O_WRONLY)); NEEDS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)); write(fd, "x", 1); syscall(SYS_exit, 0); }

BEHAVIOUR(clone_untraced) {
  pid_t p = syscall(SYS_clone, 0x00800000 | SIGCHLD, 0, 0, 0, 0); SAYS(p);
  if (!p) { fill("c"); _exit(0); }
  joined(p);
}
BEHAVIOUR(clone_three) {
  uint64_t args[11] = {0}; args[4] = SIGCHLD;
  pid_t p = syscall(435, args, sizeof args); NEEDS(p);
  if (!p) { fill("c"); _exit(0); }
  joined(p);
}
BEHAVIOUR(clone_three_untraced) {
  uint64_t args[11] = {0x00800000}; args[4] = SIGCHLD;
  pid_t p = syscall(435, args, sizeof args); NEEDS(p);
  if (!p) { fill("c"); _exit(0); }
  joined(p);
}

/* A ring that opens, writes, makes and removes without a call for each. */
static struct io_uring_params ring;
static int ring_fd; static char *ring_at; static struct io_uring_sqe *ring_entries;
static int submitted(struct io_uring_sqe entry) {
  unsigned *tail = (unsigned *)(ring_at + ring.sq_off.tail), *array = (unsigned *)(ring_at + ring.sq_off.array), *mask = (unsigned *)(ring_at + ring.sq_off.ring_mask);
  unsigned at = *tail & *mask; ring_entries[at] = entry; array[at] = at;
  __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
  SAYS(syscall(426, ring_fd, 1, 1, 1, 0, 0));
  unsigned *head = (unsigned *)(ring_at + ring.cq_off.head), *cq_mask = (unsigned *)(ring_at + ring.cq_off.ring_mask);
  struct io_uring_cqe *done = (struct io_uring_cqe *)(ring_at + ring.cq_off.cqes) + (*head & *cq_mask);
  int answer = done->res; __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
  return answer;
}
BEHAVIOUR(ring_of_calls) {
  ring_fd = syscall(425, 4, &ring); NEEDS(ring_fd);
  ring_at = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, IORING_OFF_SQ_RING); MUST(ring_at != MAP_FAILED);
  ring_entries = mmap(0, 4 * sizeof *ring_entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, IORING_OFF_SQES); MUST(ring_entries != MAP_FAILED);
  int fd = submitted((struct io_uring_sqe){.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uint64_t)"c", .len = 0644, .open_flags = O_WRONLY | O_CREAT});
  errno = -fd; SAYS(fd);
  MUST(submitted((struct io_uring_sqe){.opcode = IORING_OP_WRITE, .fd = fd, .addr = (uint64_t)"ring", .len = 4}) == 4);
  MUST(!submitted((struct io_uring_sqe){.opcode = IORING_OP_MKDIRAT, .fd = AT_FDCWD, .addr = (uint64_t)"dir/r", .len = 0755}));
  MUST(!submitted((struct io_uring_sqe){.opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = (uint64_t)"b"}));
  MUST(!submitted((struct io_uring_sqe){.opcode = IORING_OP_RENAMEAT, .fd = AT_FDCWD, .addr = (uint64_t)"a", .len = AT_FDCWD, .off = (uint64_t)"dir/z"}));
}
/* Old asynchronous input and output: the file is opened by a call all the same. */
BEHAVIOUR(asynchronous_write) {
  unsigned long context = 0; int fd; SAYS(fd = open("a", O_RDWR)); NEEDS(syscall(SYS_io_setup, 1, &context));
  struct { uint64_t data; uint32_t key, flags; uint16_t opcode, priority; uint32_t fd; uint64_t buffer, length; int64_t offset; uint64_t more[2]; }
    block = {.opcode = 1, .fd = fd, .buffer = (uint64_t)"later", .length = 5}, *list[] = {&block};
  char events[64]; MUST(syscall(SYS_io_submit, context, 1, list) == 1); MUST(syscall(SYS_io_getevents, context, 1, 1, events, 0) == 1);
}

#ifdef __x86_64__
BEHAVIOUR(old_convention) {
  /* int 0x80 out of a 64-bit program; names have to lie below 4 GB. */
  char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | 0x40, -1, 0); MUST(low != MAP_FAILED); strcpy(low, "c"); strcpy(low + 8, "a");
  int answer; __asm__ volatile("int $0x80" : "=a"(answer) : "a"(39), "b"((int)(long)low), "c"(0755) : "memory", "r8", "r9", "r10", "r11"); NEEDS(answer);
  __asm__ volatile("int $0x80" : "=a"(answer) : "a"(10), "b"((int)(long)(low + 8)) : "memory", "r8", "r9", "r10", "r11"); MUST(!answer);
}
#endif

BEHAVIOUR(traces_a_child) {
  pid_t p = fork();
  if (!p) { SAYS(ptrace(PTRACE_TRACEME, 0, 0, 0)); raise(SIGSTOP); fill("c"); SAYS(unlink("b")); _exit(0); }
  int s; for (;;) { SAYS(waitpid(p, &s, 0)); if (!WIFSTOPPED(s)) break; SAYS(ptrace(PTRACE_SYSCALL, p, 0, 0)); }
  if (WIFEXITED(s)) _exit(WEXITSTATUS(s));
  _exit(9);
}
/* As a debugger does: another process writes the names. */
BEHAVIOUR(changes_a_child_s_call) {
  int go[2]; SAYS(pipe(go)); static volatile char name[16] = "b"; char x;
  pid_t p = fork();
  if (!p) { MUST(read(go[0], &x, 1) == 1); fill((char *)name); _exit(0); }
  char text[] = "c"; struct iovec from = {text, 2}, to = {(void *)name, 2};
  ssize_t n = process_vm_writev(p, &from, 1, &to, 1, 0); MUST(write(go[1], "x", 1) == 1); NEEDS(n); joined(p);
}
static long fault_fd; static char *fault_page;
static void *fills_the_page(void *x) {
  struct { uint8_t event, more[7]; uint64_t flags, address, rest; } message; static char page[4096] = "c";
  MUST(read(fault_fd, &message, sizeof message) > 0);
  struct uffdio_copy copy = {.dst = (uint64_t)fault_page, .src = (uint64_t)page, .len = 4096}; SAYS(ioctl(fault_fd, UFFDIO_COPY, &copy));
  return x;
}
/* The name is only there once somebody has answered for its page. */
BEHAVIOUR(name_on_demand) {
  fault_fd = syscall(SYS_userfaultfd, O_CLOEXEC); NEEDS(fault_fd);
  struct uffdio_api api = {.api = UFFD_API}; SAYS(ioctl(fault_fd, UFFDIO_API, &api));
  fault_page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct uffdio_register range = {.range = {(uint64_t)fault_page, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING}; SAYS(ioctl(fault_fd, UFFDIO_REGISTER, &range));
  pthread_t t; pthread_create(&t, 0, fills_the_page, 0); int fd; SAYS(fd = open(fault_page, O_WRONLY | O_CREAT, 0644)); put(fd); pthread_join(t, 0);
}
BEHAVIOUR(name_in_a_file) {
  int fd; SAYS(fd = open("names", O_RDWR | O_CREAT, 0644)); MUST(write(fd, "c", 2) == 2);
  char *p = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0); MUST(p != MAP_FAILED); fill(p);
}
BEHAVIOUR(name_at_a_page_border) {
  char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); MUST(p != MAP_FAILED); SAYS(munmap(p + 4096, 4096));
  strcpy(p + 4094, "c"); fill(p + 4094); MUST(open(p + 4096, O_WRONLY) < 0 && errno == EFAULT); MUST(mkdir((char *)16, 0) < 0);
}
BEHAVIOUR(file_handle) {
  struct { unsigned bytes; int type; char text[128]; } handle = {128}; int id, fd, d; SAYS(d = open(".", O_RDONLY));
  NEEDS(syscall(SYS_name_to_handle_at, AT_FDCWD, "a", &handle, &id, 0));
  fd = syscall(SYS_open_by_handle_at, d, &handle, O_WRONLY); NEEDS(fd); put(fd);
}
BEHAVIOUR(accounting) { fill("c"); if (syscall(SYS_acct, "c") == 0) { joined(fork() ?: (_exit(0), 0)); SAYS(syscall(SYS_acct, 0)); } }
BEHAVIOUR(swap_file) {
  char page[4096] = {0}; int fd; SAYS(fd = open("swap", O_RDWR | O_CREAT, 0600));
  for (int i = 0; i < 16; i++) MUST(write(fd, page, sizeof page) == sizeof page);
  unsigned head[3] = {1, 15, 0}; memcpy(page + 1024, head, sizeof head); memcpy(page + 4086, "SWAPSPACE2", 10);
  MUST(pwrite(fd, page, sizeof page, 0) == sizeof page); SAYS(fsync(fd));
  if (syscall(SYS_swapon, "swap", 0) == 0) SAYS(syscall(SYS_swapoff, "swap")); /* not every file system can */
}
BEHAVIOUR(descriptor_of_another) {
  int go[2], back[2]; SAYS(pipe(go)); SAYS(pipe(back)); char x; pid_t p = fork();
  if (!p) { int fd; SAYS(fd = open("a", O_RDONLY)); SAYS(dup2(fd, 77)); MUST(write(back[1], "x", 1) == 1); read(go[0], &x, 1); _exit(0); }
  MUST(read(back[0], &x, 1) == 1); int other = syscall(434, p, 0), fd = -1; if (other >= 0) fd = syscall(438, other, 77, 0);
  MUST(write(go[1], "x", 1) == 1); NEEDS(fd); SAYS(fchmod(fd, 0600)); joined(p);
}

/* Not in the table: what becomes of them is a matter of luck. */
static char flipping[16] = "aa";
static volatile int over;
static void *flips(void *x) { while (!over) { *(volatile char *)(flipping + 1) ^= 'a' ^ 'b'; } return x; }
PART(race_of_a_name) {
  pthread_t t; pthread_create(&t, 0, flips, 0);
  for (int i = 0; i < 300; i++) { int fd; SAYS(fd = open(flipping, O_WRONLY | O_CREAT | O_APPEND, 0644)); put(fd); unlink("aa"); }
  over = 1; pthread_join(t, 0);
}
static void *swaps(void *x) { while (!over) { unlink("t"); symlink("dir", "t"); rename("t", "s"); symlink("dir/sub", "t"); rename("t", "s"); } return x; }
PART(race_of_a_link) {
  SAYS(symlink("dir", "s")); pthread_t t; pthread_create(&t, 0, swaps, 0);
  for (int i = 0; i < 200; i++) { char n[16]; sprintf(n, "s/%d", i); fill(n); }
  over = 1; pthread_join(t, 0);
}
