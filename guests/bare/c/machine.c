#include "machine.h"

/* The compiler calls these. */
void *memset(void *to, int value, uint32_t size);
void *memcpy(void *to, const void *from, uint32_t size);

void *memset(void *to, int value, uint32_t size)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, uint32_t size)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
    return to;
}

void clear(uint32_t address, uint32_t size)
{
    memset((void *)address, 0, size);
}

void print_number(uint32_t number)
{
    char text[11];
    char *at = text + sizeof text - 1;
    *at = 0;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    print_text(at);
}

void print_line(const char *text, uint32_t number)
{
    print_text(text);
    print_text(" ");
    print_number(number);
    print_text("\n");
}

uint32_t option(const char *name, uint32_t otherwise)
{
    const char *at = command_line();
    while (*at != 0) {
        const char *key = name;
        while (*key != 0 && *at == *key) {
            ++at;
            ++key;
        }
        if (*key == 0) {
            uint32_t number = 0;
            while (*at >= '0' && *at <= '9') number = number * 10 + (uint32_t)(*at++ - '0');
            return number;
        }
        while (*at != 0 && *at != ' ') ++at;
        while (*at == ' ') ++at;
    }
    return otherwise;
}
