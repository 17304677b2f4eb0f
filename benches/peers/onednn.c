/* oneDNN's matrix product through its C interface, weights packed once in the layout it asks for.
 *
 *     cc -O2 benches/peers/onednn.c -ldnnl -o onednn        (Debian: libdnnl-dev)
 *     python benches/peers/products.py target/release/examples/products --onednn ./onednn
 *
 * Answers what the example `products` answers: `layer ROWS INPUTS OUTPUTS f32|bf16` prepares a product with bias, or says
 * `unsupported`; `run N` gives the seconds of N repetitions. Written for oneDNN 2 and 3. */

#include <oneapi/dnnl/dnnl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static dnnl_engine_t engine;
static dnnl_stream_t stream;

static void check(dnnl_status_t status, const char *what) {
    if (status != dnnl_success) {
        fprintf(stderr, "oneDNN: %s failed with status %d\n", what, (int)status);
        exit(1);
    }
}

typedef dnnl_memory_desc_t description;

/* A description is a struct and handed over by its address in oneDNN 2, and a handle in oneDNN 3. */
#if DNNL_VERSION_MAJOR < 3
#define HANDED(of) (of)
#define DESCRIBE dnnl_memory_desc_init_by_tag
static dnnl_primitive_desc_t product(description *source, description *weights, description *bias, description *target) {
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t made;
    check(dnnl_matmul_desc_init(&matmul, source, weights, bias, target), "a product's description");
    return dnnl_primitive_desc_create(&made, &matmul, NULL, engine, NULL) == dnnl_success ? made : NULL;
}
static description wanted_weights(dnnl_primitive_desc_t of) {
    return *dnnl_primitive_desc_query_md(of, dnnl_query_weights_md, 0);
}
#else
#define HANDED(of) (*(of))
#define DESCRIBE dnnl_memory_desc_create_with_tag
static dnnl_primitive_desc_t product(description *source, description *weights, description *bias, description *target) {
    dnnl_primitive_desc_t made;
    dnnl_status_t status = dnnl_matmul_primitive_desc_create(&made, engine, *source, *weights, *bias, *target, NULL);
    return status == dnnl_success ? made : NULL;
}
static description wanted_weights(dnnl_primitive_desc_t of) {
    description made;
    check(dnnl_memory_desc_clone(&made, dnnl_primitive_desc_query_md(of, dnnl_query_weights_md, 0)), "a description");
    return made;
}
#endif

static description describe(int64_t rows, int64_t columns, dnnl_data_type_t type, dnnl_format_tag_t tag) {
    dnnl_dims_t dims = {rows, columns};
    description made;
    check(DESCRIBE(&made, 2, dims, type, tag), "a description");
    return made;
}

static dnnl_memory_t hold(const description *of) {
    dnnl_memory_t made;
    check(dnnl_memory_create(&made, HANDED(of), engine, DNNL_MEMORY_ALLOCATE), "memory");
    return made;
}

static void pack(const description *plain, dnnl_memory_t from, const description *packed, dnnl_memory_t to) {
    dnnl_primitive_desc_t described;
    dnnl_primitive_t reorder;
    check(dnnl_reorder_primitive_desc_create(&described, HANDED(plain), engine, HANDED(packed), engine, NULL), "packing");
    check(dnnl_primitive_create(&reorder, described), "packing");
    dnnl_exec_arg_t ends[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    check(dnnl_primitive_execute(reorder, stream, 2, ends), "packing");
    check(dnnl_stream_wait(stream), "packing");
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(described);
}

/* A product that is ready to run. */
static dnnl_primitive_t primitive;
static dnnl_exec_arg_t arguments[4];

/* Denormals and zeros would run at another speed: small numbers that differ, as bf16 or f32. */
static dnnl_memory_t filled(const description *of, dnnl_data_type_t type) {
    dnnl_memory_t made = hold(of);
    void *data;
    check(dnnl_memory_get_data_handle(made, &data), "memory");
    size_t bytes = dnnl_memory_desc_get_size(HANDED(of));
    uint32_t state = 1;
    for (size_t at = 0; at + (type == dnnl_f32 ? 4 : 2) <= bytes; at += type == dnnl_f32 ? 4 : 2) {
        state = state * 1664525u + 1013904223u;
        float value = (float)(state >> 8) / (1 << 24) - 0.5f;
        if (type == dnnl_f32) {
            memcpy((char *)data + at, &value, 4);
        } else {
            memcpy((char *)data + at, (char *)&value + 2, 2);
        }
    }
    return made;
}

static const char *prepare(int64_t rows, int64_t inputs, int64_t outputs, dnnl_data_type_t type) {
    if (primitive) {
        dnnl_primitive_destroy(primitive);
        for (int index = 0; index < 4; index++) dnnl_memory_destroy(arguments[index].memory);
        primitive = NULL;
    }
    description source = describe(rows, inputs, type, dnnl_ab), target = describe(rows, outputs, dnnl_f32, dnnl_ab);
    description any = describe(inputs, outputs, type, dnnl_format_tag_any), plain = describe(inputs, outputs, type, dnnl_ba);
    description bias = describe(1, outputs, dnnl_f32, dnnl_ab);
    dnnl_primitive_desc_t described = product(&source, &any, &bias, &target);
    if (!described) return "unsupported";
    description packed = wanted_weights(described);
    dnnl_memory_t weights = filled(&plain, type), ready = hold(&packed);
    pack(&plain, weights, &packed, ready);
    dnnl_memory_destroy(weights);
    check(dnnl_primitive_create(&primitive, described), "a product");
    dnnl_primitive_desc_destroy(described);
    arguments[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, filled(&source, type)};
    arguments[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, ready};
    arguments[2] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, filled(&bias, dnnl_f32)};
    arguments[3] = (dnnl_exec_arg_t){DNNL_ARG_DST, hold(&target)};
    return "ready";
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + 1e-9 * at.tv_nsec;
}

int main(void) {
    check(dnnl_engine_create(&engine, dnnl_cpu, 0), "the engine");
    check(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "the stream");
    char line[256], type[16];
    long long rows, inputs, outputs;
    int repetitions;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "layer %lld %lld %lld %15s", &rows, &inputs, &outputs, type) == 4) {
            printf("%s\n", prepare(rows, inputs, outputs, strcmp(type, "bf16") ? dnnl_f32 : dnnl_bf16));
        } else if (sscanf(line, "run %d", &repetitions) == 1 && primitive) {
            for (int turn = 0; turn < repetitions; turn++) {
                double began = now();
                check(dnnl_primitive_execute(primitive, stream, 4, arguments), "a product");
                check(dnnl_stream_wait(stream), "a product");
                printf("%.9f ", now() - began);
            }
            printf("\n");
        } else {
            printf("unknown\n");
        }
        fflush(stdout);
    }
    return 0;
}
