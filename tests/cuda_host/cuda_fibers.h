/* cuda_fibers.h: the threads of a block as fibers; for cuda_host.cpp. Runs under its lock. */
#ifndef SMHF_CUDA_FIBERS_H
#define SMHF_CUDA_FIBERS_H

#include <cstddef>

/* How many barriers and exchanges were met so far: a test that counts on them looks here. */
extern unsigned long cuda_host_switches;

#endif
