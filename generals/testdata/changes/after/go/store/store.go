package store

type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
}

func Open(path string) (Store, error) {
	return nil, nil
}
