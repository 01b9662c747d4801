def run(path, strict=False):
    return path


class Client:
    def fetch(self, url):
        return url

    def close(self):
        pass
