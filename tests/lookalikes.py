"""Small nets with the state-dict names of torchvision, timm and Hugging Face, whose own are not installed here."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 4


class Block(nn.Module):
    """A residual block as torchvision has it."""

    def __init__(self, below: int, above: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(below, above, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(above)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(above, above, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(above)
        self.downsample = None
        if stride > 1 or below != above:
            self.downsample = nn.Sequential(nn.Conv2d(below, above, 1, stride, bias=False), nn.BatchNorm2d(above))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """`torchvision.models.resnet18`, thin; `resnet34` has more blocks."""

    def __init__(self, num_classes: int = 10, blocks: tuple[int, ...] = (2, 2), width: int = WIDTH) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(*[Block(width, width) for _ in range(blocks[0])])
        more = [Block(2 * width, 2 * width) for _ in range(blocks[1] - 1)]
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), *more)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class Timm(nn.Module):
    """A net whose head is `head.fc`, as timm's; without classes it returns features."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.blocks = nn.Sequential(nn.Conv2d(WIDTH, 2 * WIDTH, 3, 2, 1), nn.BatchNorm2d(2 * WIDTH), nn.ReLU6())
        self.head = nn.Module()
        self.head.fc = nn.Linear(2 * WIDTH, num_classes) if num_classes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Output:
    """What Hugging Face returns."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class HuggingFace(nn.Module):
    """`ResNetForImageClassification`: the body below a prefix, the head beside it; it returns a record."""

    def __init__(self, num_labels: int = 10) -> None:
        super().__init__()
        self.resnet = nn.Module()
        self.resnet.embedder = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTH))
        self.resnet.encoder = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, num_labels))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> Output:
        if pixel_values.shape[1] != 3:
            raise ValueError("the channel dimension of the pixel values does not match the configuration")
        x = F.relu(self.resnet.encoder(F.relu(self.resnet.embedder(pixel_values))))
        return Output(self.classifier(F.adaptive_avg_pool2d(x, 1)))


class Logits(nn.Module):
    """What is written around such a net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).logits


class Body(nn.Module):
    """`ResNetModel`: the same body, bare."""

    def __init__(self) -> None:
        super().__init__()
        whole = HuggingFace()
        self.embedder, self.encoder = whole.resnet.embedder, whole.resnet.encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.encoder(F.relu(self.embedder(x)))).mean((2, 3))


class Smooth(nn.Module):
    """SiLU and squeeze-and-excitation, which have no exact rendering."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.gate = nn.Conv2d(WIDTH, WIDTH, 1)
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.stem(x))
        return self.fc((x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))).mean((2, 3)))


class Shared(nn.Module):
    """One convolution and one gate, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.conv, self.relu = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.ReLU()
        self.again = self.conv
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.again(self.relu(self.conv(self.relu(self.stem(x))))))
        return self.fc(x.mean((2, 3)))


def resnet18() -> nn.Module:
    return ResNet()


def resnet34() -> nn.Module:
    return ResNet(blocks=(3, 4))


def hugging_face() -> nn.Module:
    return Logits(HuggingFace())


def grey() -> nn.Module:
    body = [nn.Conv2d(1, WIDTH, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(WIDTH, 10))


def raising() -> nn.Module:
    raise OSError("no such\nfile")


def leaving() -> nn.Module:
    raise SystemExit(3)


def nothing() -> None:
    return None


INSTANCE = ResNet()
NUMBER = 3


def lively(net: nn.Module, seed: int = 1) -> nn.Module:
    """The net with weights that no factory draws, statistics of its norms among them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                centre = 0.5 if tensor.ndim > 1 else 0
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1 - centre)
    return net.eval()
