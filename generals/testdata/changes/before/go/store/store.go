package store

type Store interface {
	Get(key string) ([]byte, error)
	Close() error
}

func Open(path string) (Store, error) {
	return nil, nil
}
