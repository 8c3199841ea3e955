/* The first process of a container whose task has a `hold`.
 *
 *     hold PROGRAM ARGUMENT...
 *
 * As a rule it becomes the program, found in PATH as an engine would find it. When a file `stay` lies beside it, it
 * stays instead, does nothing and reaps what others leave, so that people can look into the container that the program
 * left. It needs nothing of the image: no C library, no shell. `make hold` builds it.
 */

#if defined(__x86_64__)
static long call(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}
enum { FACCESSAT = 269, EXECVE = 59, WRITE = 1, EXIT = 60, WAIT4 = 61, NANOSLEEP = 35 };
__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall run\n");
#elif defined(__aarch64__)
static long call(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
enum { FACCESSAT = 48, EXECVE = 221, WRITE = 64, EXIT = 93, WAIT4 = 260, NANOSLEEP = 101 };
__asm__(".globl _start\n_start: mov x0, sp\nb run\n");
#endif

enum { HERE = -100, NO_FILE = -2, DENIED = -13, NOT_FOUND = 127, NOT_RUN = 126 };
static char path[4096 + 256];

static long length(const char *text)
{
    long n = 0;
    while (text[n])
        n++;
    return n;
}

static void say(const char *text)
{
    call(WRITE, 2, (long)text, length(text), 0);
}

static void end(const char *why, const char *program, int code)
{
    say("osmo-hold: ");
    say(why);
    say(program);
    say("\n");
    call(EXIT, code, 0, 0, 0);
}

static void stay(void)
{
    long second[2] = {1, 0};
    for (;;) {
        while (call(WAIT4, -1, 0, 1, 0) > 0)
            ;
        call(NANOSLEEP, (long)second, 0, 0, 0);
    }
}

static const char *search_path(char **environment)
{
    for (; *environment; environment++) {
        const char *one = *environment;
        if (one[0] == 'P' && one[1] == 'A' && one[2] == 'T' && one[3] == 'H' && one[4] == '=')
            return one + 5;
    }
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/* Become the program at `where`; returns only when that cannot be. NO_FILE means that it is not there. */
static long become(const char *where, char **arguments, char **environment)
{
    long error = call(EXECVE, (long)where, (long)arguments, (long)environment, 0);
    if (error == NO_FILE && call(FACCESSAT, HERE, (long)where, 0, 0) == 0)
        end("its interpreter (#! line) is not in the image: ", where, NOT_RUN);
    return error;
}

static long search(char **arguments, char **environment)
{
    const char *rest = search_path(environment);
    long wanted = length(arguments[0]), result = NO_FILE;
    while (*rest) {
        long n = 0;
        while (rest[n] && rest[n] != ':')
            n++;
        if (n + wanted + 2 < (long)sizeof path) {
            char *to = path;
            for (long i = 0; i < n; i++)
                *to++ = rest[i];
            *to++ = '/';
            for (long i = 0; i <= wanted; i++)
                *to++ = arguments[0][i];
            long error = become(path, arguments, environment);
            if (error != NO_FILE && error != -20)
                result = error;
        }
        rest += n;
        if (*rest == ':')
            rest++;
    }
    return result;
}

__attribute__((noreturn, used)) void run(long *stack)
{
    long count = stack[0];
    char **arguments = (char **)(stack + 1);
    char **environment = arguments + count + 1;
    if (call(FACCESSAT, HERE, (long)"/osmo/hold/stay", 0, 0) == 0)
        stay();
    if (count < 2)
        end("no program is named", "", NOT_RUN);
    char **wanted = arguments + 1;
    int plain = 1;
    for (long i = 0; wanted[0][i]; i++)
        if (wanted[0][i] == '/')
            plain = 0;
    long error = plain ? search(wanted, environment) : become(wanted[0], wanted, environment);
    if (error == NO_FILE)
        end("not found: ", wanted[0], NOT_FOUND);
    end(error == DENIED ? "permission denied: " : "not to be run: ", wanted[0], NOT_RUN);
    for (;;)
        ;
}
