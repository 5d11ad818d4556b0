/* Whether this kernel's verifier takes every program of a device's eBPF object, loaded by libbpf. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MOST 16 /* programs in an object */
#define SHOWN 2000 /* of the verifier's last words */

static char said[1 << 20];

static int note(enum libbpf_print_level level, const char *format, va_list rest)
{
    size_t used = strlen(said);

    return level == LIBBPF_DEBUG ? 0 : vsnprintf(said + used, sizeof said - used, format, rest);
}

/* How many instructions the verifier went through. */
static unsigned steps(const struct bpf_program *program)
{
    struct bpf_prog_info info = { 0 };
    uint32_t size = sizeof info;

    return bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) ? 0 : info.verified_insns;
}

/* Load one program of the object, the `number`th; 0 if it is accepted, -1 if there is none. */
static int load(const char *path, unsigned number)
{
    struct bpf_object *object = bpf_object__open_file(path, NULL);
    struct bpf_program *program, *chosen = NULL;
    int error;

    said[0] = 0;
    if (!object) {
        printf("cannot read %s: %s\n", path, strerror(errno));
        return 1;
    }
    bpf_object__for_each_program(program, object) {
        bpf_program__set_autoload(program, number == 0);
        if (number-- == 0)
            chosen = program;
    }
    if (!chosen) {
        bpf_object__close(object);
        return -1;
    }
    error = bpf_object__load(object);
    if (error)
        printf("  %-20s %s\n%s\n", bpf_program__name(chosen), strerror(-error),
               said + (strlen(said) > SHOWN ? strlen(said) - SHOWN : 0));
    else
        printf("  %-20s accepted, %u instructions gone through\n", bpf_program__name(chosen), steps(chosen));
    bpf_object__close(object);
    return error != 0;
}

int main(int count, char **arguments)
{
    int failed = 0;

    libbpf_set_print(note);
    for (int i = 1; i < count; i++)
        for (unsigned number = 0; number < MOST; number++) {
            int outcome = load(arguments[i], number);

            if (outcome < 0)
                break;
            failed |= outcome;
        }
    return failed;
}
