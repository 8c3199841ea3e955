module osmo-ray/clusters/launcher

go 1.24
