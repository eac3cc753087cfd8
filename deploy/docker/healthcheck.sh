#!/bin/bash
# Exit code 0 when http://127.0.0.1:PORT/PATH answers 200: chord-healthcheck PORT [/readyz]
exec 2>/dev/null
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "${2:-/readyz}" >&3
IFS=' ' read -t 2 -r _ status _ <&3
[[ "$status" == 200 ]]
