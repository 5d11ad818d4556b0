#define _GNU_SOURCE
#include "kernel.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TARGET "ioeventfd_write"

/* A way's programs, by section: all of them start with this. */
static const char *const sections[WAYS] = { [TRACEPOINTS] = "raw_tp/", [FENTRY] = "fentry/" };

static char said[1 << 16]; /* by libbpf and the verifier */
static char why[512];

_Noreturn void fail(const char *what, ...)
{
    va_list rest;

    va_start(rest, what);
    vfprintf(stderr, what, rest);
    va_end(rest);
    fprintf(stderr, "\n");
    exit(1);
}

static int note(enum libbpf_print_level level, const char *format, va_list rest)
{
    size_t used = strlen(said);

    return level == LIBBPF_DEBUG ? 0 : vsnprintf(said + used, sizeof said - used, format, rest);
}

/* Type information of the part of the kernel that KVM is in, a module or the kernel itself; NULL: none. */
static const struct btf *types_of_kvm(void)
{
    static const struct btf *all, *found;

    if (!all && (all = btf__load_vmlinux_btf())) {
        found = btf__load_module_btf("kvm", (struct btf *)all);
        found = found ? found : all;
    }
    return found;
}

/* A member's place in a structure of the kernel's own, in bytes; -1: unknown. */
static int64_t place(const char *structure, const char *member)
{
    const struct btf *btf = types_of_kvm();
    int id = btf ? btf__find_by_name_kind(btf, structure, BTF_KIND_STRUCT) : 0;
    const struct btf_type *type = id > 0 ? btf__type_by_id(btf, (uint32_t)id) : NULL;

    for (unsigned i = 0; type && i < btf_vlen(type); i++)
        if (!strcmp(btf__name_by_offset(btf, btf_members(type)[i].name_off), member))
            return btf_member_bit_offset(type, i) / 8;
    return -1;
}

/* What the program at the function must know of the kernel's structures. */
static const char *find_eventfds(struct io *io)
{
    int64_t device = place("_ioeventfd", "dev"), eventfd = place("_ioeventfd", "eventfd"), id = place("eventfd_ctx", "id");

    if (device < 0 || eventfd < 0 || id < 0)
        return "no type information of KVM (CONFIG_DEBUG_INFO_BTF, and _MODULES if kvm is one; is it loaded?)";
    io->eventfd_at = eventfd - device;
    io->id_at = (uint64_t)id;
    return NULL;
}

static size_t whole_pages(size_t size)
{
    return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static void *mapped(struct bpf_object *object, const char *section, size_t size)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, section);
    void *memory;

    if (!map)
        return NULL;
    if (bpf_map__value_size(map) != size)
        fail("%s has %u bytes, not %zu: built from another device file?", section, bpf_map__value_size(map), size);
    memory = mmap(NULL, whole_pages(size), PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
    if (memory == MAP_FAILED)
        fail("cannot map %s: %s", section, strerror(errno));
    return memory;
}

/* Whether a program belongs to the way, and is to be attached (or else run by us). */
static int wanted(const struct bpf_program *program, enum way way, int *attached)
{
    const char *name = bpf_program__name(program), *end = strrchr(name, '_');

    *attached = sections[way] && !strncmp(bpf_program__section_name(program), sections[way], strlen(sections[way]));
    return *attached || (way == TRACEPOINTS && end && !strcmp(end, "_enrol"));
}

/* Attach what is loaded, and say to the programs at tracepoints that this thread is the vCPU. */
static const char *attach_all(struct in_kernel *device, enum way way)
{
    struct bpf_program *program;
    unsigned number = 0;
    int attached;

    bpf_object__for_each_program(program, device->object) {
        if (!wanted(program, way, &attached))
            continue;
        if (attached) {
            device->links[number] = bpf_program__attach(program);
            if (!device->links[number++]) {
                snprintf(why, sizeof why, "the kernel does not attach to %s: %s", bpf_program__section_name(program),
                         strerror(errno));
                return why;
            }
        } else if (bpf_prog_test_run_opts(bpf_program__fd(program), NULL)) {
            fail("cannot run %s: %s", bpf_program__name(program), strerror(errno));
        }
    }
    return NULL;
}

const char *attach(struct in_kernel *device, const char *path, size_t state_size, enum way way)
{
    struct bpf_program *program;
    int error, attached;

    libbpf_set_print(note);
    said[0] = 0;
    *device = (struct in_kernel){ .object = bpf_object__open_file(path, NULL) };
    if (!device->object)
        fail("cannot read %s: %s\n%s", path, strerror(errno), said);
    bpf_object__for_each_program(program, device->object)
        bpf_program__set_autoload(program, wanted(program, way, &attached));
    error = -bpf_object__load(device->object);
    if (error == EPERM) {
        snprintf(why, sizeof why, "the kernel refuses %s (EPERM)",
                 way == FENTRY ? "programs at functions, which patch its code" : "eBPF: run as root (CAP_BPF, CAP_PERFMON)");
        return why;
    }
    if (error == ESRCH)
        return "the kernel has no function " TARGET " that a program can be attached to (is kvm loaded?)";
    if (error)
        fail("the kernel does not take %s: %s\n%s", path, strerror(error), said);
    device->state = mapped(device->object, ".data", state_size);
    device->io = mapped(device->object, ".data.io", sizeof *device->io);
    device->log = mapped(device->object, ".data.log", sizeof *device->log * RECORDS);
    device->page = mapped(device->object, ".data.page", PAGE);
    if (!device->state || !device->io || !device->log)
        fail("%s is not an object of program.py", path);
    if (way == FENTRY && find_eventfds(device->io))
        return find_eventfds(device->io);
    return attach_all(device, way);
}

void detach(struct in_kernel *device, size_t state_size)
{
    if (!device->object)
        return;
    for (unsigned i = 0; i < sizeof device->links / sizeof *device->links; i++)
        bpf_link__destroy(device->links[i]);
    if (device->state) {
        munmap(device->state, whole_pages(state_size));
        munmap(device->io, whole_pages(sizeof *device->io));
        munmap(device->log, whole_pages(sizeof *device->log * RECORDS));
    }
    if (device->page)
        munmap(device->page, PAGE);
    bpf_object__close(device->object);
    *device = (struct in_kernel){ 0 };
}

uint32_t eventfd_id(int eventfd)
{
    char path[64], line[128];
    unsigned id;
    FILE *info;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", eventfd);
    info = fopen(path, "r");
    if (!info)
        fail("cannot read %s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, info))
        if (sscanf(line, "eventfd-id: %u", &id) == 1) {
            fclose(info);
            return id;
        }
    fail("%s does not give the eventfd's id (Linux 5.2 and later do)", path);
}
