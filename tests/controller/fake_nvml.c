/* A libnvidia-ml.so.1 that answers from the environment, so that the real pynvml can be tested
 * without a driver. FAKE_NVML_<CALL>_CODE is the status a call returns (default 0, success) and
 * FAKE_NVML_<VALUE> what it gives. The call named by FAKE_NVML_HANG does not return until somebody
 * has opened the pipe FAKE_NVML_PIPE for writing and closed it again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;

static unsigned long long number(const char *name, const char *suffix) {
    char variable[80];
    snprintf(variable, sizeof variable, "FAKE_NVML_%s%s", name, suffix);
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 10) : 0;
}

static int status(const char *call) {
    const char *hang = getenv("FAKE_NVML_HANG");
    if (hang && !strcmp(hang, call)) {
        FILE *pipe = fopen(getenv("FAKE_NVML_PIPE"), "r");
        while (fgetc(pipe) != EOF) {}
        fclose(pipe);
    }
    return (int)number(call, "_CODE");
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return status("INIT"); }

int nvmlShutdown(void) { return status("SHUTDOWN"); }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = "handle";
    return strcmp(uuid, "GPU-fake") ? 6 /* NOT_FOUND */ : status("HANDLE");
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    (void)device;
    rates->gpu = number("UTILIZATION", "");
    return status("UTILIZATION");
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    (void)device;
    memory->total = number("MEMORY_TOTAL", "");
    memory->used = number("MEMORY_USED", "");
    return status("MEMORY");
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
    (void)device;
    *milliwatts = number("POWER_MW", "");
    return status("POWER");
}

int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *reasons) {
    (void)device;
    *reasons = number("EVENT_REASONS", "");
    return status("EVENT_REASONS");
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    (void)device;
    *reasons = number("THROTTLE_REASONS", "");
    return status("THROTTLE_REASONS");
}
