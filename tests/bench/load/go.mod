module immich-exposure/load

go 1.26.0
