// Prints the addresses of a name, by Go's own resolver or by libc's (GODEBUG=netdns=go|cgo).
package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	addresses, err := net.LookupHost(os.Args[1])
	for _, it := range addresses {
		fmt.Println(it)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
