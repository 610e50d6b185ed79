/* A libnvidia-ml.so.1 that answers from a file, so that the real pynvml can be tested without a
 * driver. The file named by FAKE_NVML has a line "KEY VALUE" for everything that is not 0. Keys:
 *   <CALL>_CODE     the status that a call returns
 *   <VALUE>         what it gives; <VALUE>@<UUID> for one device alone
 *   UUID0 .. UUID3  the devices; MIG_UUID a part of the first
 *   HANG            the call that does not return until somebody has opened the pipe PIPE for
 *                   writing and closed it again
 * To leave a function out, compile with -D<function>=<another name>. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define NUM_DEVICES 4
#define MIG NUM_DEVICES

typedef struct { char uuid[96]; } device_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } process_t;
typedef struct { unsigned int pid; unsigned long long us; unsigned int sm, mem, enc, dec; } share_t;
typedef struct { unsigned int serial; double sm, dram; } sample_t;
typedef struct { unsigned int id; int code; double value; const char *names[3]; } metric_t;
typedef struct {
    unsigned int version, count;
    sample_t *older, *newer;
    metric_t metrics[1];
} metrics_t;
typedef struct { unsigned int version, supported; } support_t;

static device_t devices[NUM_DEVICES + 1];

static int look_up(const char *key, char *value) {
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    char name[128];
    int found = 0;
    while (!found && fscanf(file, "%127s %255s", name, value) == 2) found = !strcmp(name, key);
    fclose(file);
    return found;
}

static double number(const char *key) {
    char value[256];
    return look_up(key, value) ? strtod(value, NULL) : 0;
}

static double of(const device_t *device, const char *key) {
    char name[256], value[256];
    snprintf(name, sizeof name, "%s@%s", key, device->uuid);
    return look_up(name, value) ? strtod(value, NULL) : number(key);
}

static int status(const char *call) {
    char value[256], code[64];
    if (look_up("HANG", value) && !strcmp(value, call) && look_up("PIPE", value)) {
        FILE *pipe = fopen(value, "r");
        while (fgetc(pipe) != EOF) {}
        fclose(pipe);
    }
    snprintf(code, sizeof code, "%s_CODE", call);
    return (int)number(code);
}

static int status_of(const device_t *device, const char *call) {
    char code[64];
    snprintf(code, sizeof code, "%s_CODE", call);
    int special = (int)of(device, code), general = status(call);
    return special ? special : general;
}

static device_t *device_at(int index) {
    char key[16];
    snprintf(key, sizeof key, "UUID%d", index);
    int known = index < NUM_DEVICES && look_up(key, devices[index].uuid);
    return known ? &devices[index] : NULL;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return status("INIT"); }

int nvmlShutdown(void) { return status("SHUTDOWN"); }

const char *nvmlErrorString(int code) { return code == 21 ? "No data" : "Unknown Error"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    for (*count = 0; device_at(*count); ++*count) {}
    return status("COUNT");
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t **device) {
    *device = device_at(index);
    return *device ? status("HANDLE") : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device_t **device) {
    if (look_up("MIG_UUID", devices[MIG].uuid) && !strcmp(uuid, devices[MIG].uuid)) {
        *device = &devices[MIG];
        return status("HANDLE");
    }
    for (int index = 0; (*device = device_at(index)); index++)
        if (!strcmp(uuid, (*device)->uuid)) return status("HANDLE");
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(const device_t *device, char *uuid, unsigned int size) {
    snprintf(uuid, size, "%s", device->uuid);
    return status("UUID");
}

int nvmlDeviceIsMigDeviceHandle(const device_t *device, unsigned int *is_mig) {
    *is_mig = device == &devices[MIG];
    return status("IS_MIG");
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const device_t *device, device_t **board) {
    (void)device;
    *board = device_at(0);
    return status("BOARD");
}

int nvmlDeviceGetGpuInstanceId(const device_t *device, unsigned int *instance) {
    (void)device;
    *instance = 7;
    return status("INSTANCE");
}

int nvmlDeviceGetUtilizationRates(const device_t *device, utilization_t *rates) {
    rates->gpu = of(device, "UTILIZATION");
    return status_of(device, "UTILIZATION");
}

int nvmlDeviceGetMemoryInfo(const device_t *device, memory_t *memory) {
    memory->total = of(device, "MEMORY_TOTAL");
    memory->used = of(device, "MEMORY_USED");
    return status_of(device, "MEMORY");
}

int nvmlDeviceGetPowerUsage(const device_t *device, unsigned int *milliwatts) {
    *milliwatts = of(device, "POWER_MW");
    return status_of(device, "POWER");
}

int nvmlDeviceGetClockInfo(const device_t *device, unsigned int type, unsigned int *mhz) {
    *mhz = of(device, type == 1 /* SM */ ? "SM_CLOCK_MHZ" : "OTHER_CLOCK_MHZ");
    return status_of(device, "CLOCK");
}

int nvmlDeviceGetCurrentClocksEventReasons(const device_t *device, unsigned long long *reasons) {
    *reasons = of(device, "EVENT_REASONS");
    return status_of(device, "EVENT_REASONS");
}

int nvmlDeviceGetCurrentClocksThrottleReasons(const device_t *device, unsigned long long *reasons) {
    *reasons = of(device, "THROTTLE_REASONS");
    return status_of(device, "THROTTLE_REASONS");
}

static unsigned int own_pid(void) {
    unsigned int pid = number("PID");
    return pid ? pid : (unsigned int)getpid();
}

/* Two processes: number 1, and the caller unless PID says another. */
int nvmlDeviceGetComputeRunningProcesses_v3(
    const device_t *device, unsigned int *count, process_t *processes
) {
    int code = status_of(device, "PROCESSES");
    if (code) return code;
    if (*count < 2) return *count = 2, INSUFFICIENT_SIZE;
    *count = 2;
    processes[0] = (process_t){1, 1000, 0, 0};
    processes[1] = (process_t){own_pid(), of(device, "OWN_MEMORY"), 0, 0};
    return 0;
}

/* Of each process two samples a second apart, at OWN_US if that is later than `since`. */
int nvmlDeviceGetProcessUtilization(
    const device_t *device, share_t *samples, unsigned int *count, unsigned long long since
) {
    int code = status_of(device, "PROCESS_UTILIZATION");
    unsigned long long now = of(device, "OWN_US");
    if (code) return code;
    if (now <= since) return NOT_FOUND;
    if (*count < 4) return *count = 4, INSUFFICIENT_SIZE;
    for (unsigned int n = 0; n < *count; n++)
        samples[n] = (share_t){n % 2 ? own_pid() : 1, now - (n / 2 ? 1000000 : 0), 99, 0, 0, 0};
    samples[1].sm = of(device, "OWN_UTILIZATION");
    return 0;
}

int nvmlGpmQueryDeviceSupport(const device_t *device, support_t *support) {
    support->supported = device != &devices[MIG] && of(device, "GPM");
    return status_of(device, "GPM_SUPPORT");
}

int nvmlGpmSampleAlloc(sample_t **sample) {
    *sample = calloc(1, sizeof **sample);
    return status("GPM_ALLOC");
}

int nvmlGpmSampleFree(sample_t *sample) {
    free(sample);
    return status("GPM_FREE");
}

/* GPM_SM and GPM_DRAM count up from the start of the machine, as the real counters do. */
static int take(const char *call, const device_t *device, sample_t *sample, double factor) {
    static unsigned int serial;
    *sample = (sample_t){++serial, factor * of(device, "GPM_SM"), factor * of(device, "GPM_DRAM")};
    return status_of(device, call);
}

int nvmlGpmSampleGet(const device_t *device, sample_t *sample) {
    return device == &devices[MIG] ? NOT_SUPPORTED : take("GPM_SAMPLE", device, sample, 1);
}

int nvmlGpmMigSampleGet(const device_t *device, unsigned int instance, sample_t *sample) {
    return instance != 7 ? INVALID_ARGUMENT : take("GPM_MIG_SAMPLE", device, sample, 0.5);
}

int nvmlGpmMetricsGet(metrics_t *request) {
    const sample_t *older = request->older, *newer = request->newer;
    if (request->version != 1 || request->count != 1 || older->serial >= newer->serial)
        return INVALID_ARGUMENT;
    int is_sm = request->metrics[0].id == 2;
    double passed = is_sm ? newer->sm - older->sm : newer->dram - older->dram;
    request->metrics[0].code = status(is_sm ? "GPM_SM" : "GPM_DRAM");
    request->metrics[0].value = request->metrics[0].code ? 0 : passed;
    return status("GPM_METRICS");
}
