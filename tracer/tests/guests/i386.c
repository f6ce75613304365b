/* A 32-bit program without a library: opens, writes, removes, changes. */
static int call(int nr, int a, int b, int c) {
  int answer;
  __asm__ volatile("int $0x80" : "=a"(answer) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
  return answer;
}
static int is_null(const char *p) { return p == 0; }
void _start(void) {
  int bad = 0, fd = call(5, (int)"c", 0101, 0644);                 /* open O_WRONLY|O_CREAT */
  bad |= fd < 0 || call(4, fd, (int)"x", 1) != 1;                  /* write */
  bad |= call(10, (int)"a", 0, 0) != 0;                            /* unlink */
  bad |= call(15, (int)"link2", 0600, 0) >= 0;                     /* chmod of nothing */
  bad |= call(15, (int)"b", 0600, 0) != 0;                         /* chmod */
  bad |= call(38, (int)"dir", (int)"moved", 0) != 0;               /* rename */
  struct { unsigned short family; char path[8]; } name = {1, "sock"};
  int socket[3] = {1, 1, 0};
  int s = call(102, 1, (int)socket, 0);                            /* socketcall socket */
  int bind[3] = {s, (int)&name, sizeof name};
  bad |= s < 0 || call(102, 2, (int)bind, 0) != 0;                 /* socketcall bind */
  bad |= call(425, 4, 0, 0) != -38;                                /* io_uring_setup */
  call(1, bad | is_null("x"), 0, 0);
  for (;;) {}
}
