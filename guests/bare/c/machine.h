/* What bare guests in C have: ports, memory-mapped registers, the console, their command line. */
#pragma once

#include <stdint.h>

/* entry.S */
const char *command_line(void);
void print_text(const char *text);

/* machine.c */
void print_number(uint32_t number);
void print_line(const char *text, uint32_t number); /* "text number\n" */
/* The number behind `name` ("seed=") in the command line, or `otherwise`. */
uint32_t option(const char *name, uint32_t otherwise);

void clear(uint32_t address, uint32_t size);

/* Of the guest: 0 when it passed, else what to print behind "FAILED". */
uint32_t guest_main(void);

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

/* One access of exactly this width. */
static inline volatile uint8_t *byte_at(uint32_t address) { return (volatile uint8_t *)address; }
static inline volatile uint16_t *word_at(uint32_t address) { return (volatile uint16_t *)address; }
static inline volatile uint32_t *dword_at(uint32_t address)
{
    return (volatile uint32_t *)address;
}

/* What was written before is seen by devices before what is written after. */
static inline void barrier(void)
{
    __asm__ volatile("lock addl $0, (%%esp)" ::: "memory");
}
