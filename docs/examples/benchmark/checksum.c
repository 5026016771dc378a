/* The CRC-32 of 64 KiB, again and again. It needs no C library, so one compiler per architecture is enough. */

#define SIZE 65536
#ifdef SLOWER /* as if somebody had made it 2 % slower */
#define ROUNDS 51
#else
#define ROUNDS 50
#endif

static unsigned char data[SIZE];

static unsigned crc32(void)
{
    unsigned crc = ~0u;
    for (int i = 0; i < SIZE; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
    }
    return ~crc;
}

void _start(void)
{
    unsigned sum = 0;
    for (int i = 0; i < SIZE; i++)
        data[i] = (unsigned char)(i * 31);
    for (int i = 0; i < ROUNDS; i++)
        data[i] = (unsigned char)(sum += crc32());
#ifdef __aarch64__
    __asm__ volatile("mov x8, #93\n mov x0, #0\n svc #0"); /* exit(0) */
#else
    __asm__ volatile("mov r7, #1\n mov r0, #0\n svc #0");
#endif
    __builtin_unreachable();
}
