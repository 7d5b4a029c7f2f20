"""A multi-layer perceptron of PyTorch on one thread: SGD on mini-batches, each scored before it is learned."""


def prepare(path, hidden, batch, rate):
    """`path`: npz with `x` (n, d) float32 and `y` (n,) class ids."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    held = np.load(path)
    x, y = torch.from_numpy(held["x"]), torch.from_numpy(held["y"].astype(np.int64))
    sizes = [x.shape[1], *hidden, int(y.max()) + 1]
    layers = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    net, loss = torch.nn.Sequential(*layers[:-1]), torch.nn.CrossEntropyLoss()
    descent = torch.optim.SGD(net.parameters(), rate)

    def run():
        right = 0
        for start in range(0, len(y), batch):
            out = net(x[start : start + batch])
            goal = y[start : start + batch]
            right += int((out.argmax(1) == goal).sum())
            descent.zero_grad(set_to_none=False)
            loss(out, goal).backward()
            descent.step()
        return {"rows": len(y), "accuracy": right / len(y), "version": torch.__version__}

    return run
