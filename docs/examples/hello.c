#include <stdio.h>

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "usage: hello NAME\n");
        return 2;
    }
    printf("hello %s\n", arguments[1]);
    return 0;
}
